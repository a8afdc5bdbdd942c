"""A suite is cut in two without a question, or a cluster, on both sides."""

from __future__ import annotations

from keeptune.data.suite import Choice, ChoiceTask, Corpus, Document, Suite
from keeptune.data.suite_parts import set_apart

SUITE = Suite(
    "made",
    "1",
    tasks=(ChoiceTask("sums", tuple(Choice(f"q{i}", "?", ("a", "b"), 0, f"c{i // 4}") for i in range(800)), 0.5),),
    corpora=(Corpus("one", (Document("d", "text"),)),),
    instructions=tuple(f"request {i}" for i in range(500)),
)


def test_every_question_is_on_one_side_and_clusters_are_whole():
    part, rest = set_apart(SUITE, 0.2, 10_000)
    inside, outside = ({item.id for item in side.tasks[0].items} for side in (part, rest))
    assert inside | outside == {item.id for item in SUITE.tasks[0].items}
    assert not inside & outside
    assert not {i.cluster for i in part.tasks[0].items} & {i.cluster for i in rest.tasks[0].items}
    assert 100 < len(inside) < 220  # of 200 clusters of 4, a fifth: 160 expected, 23 one standard deviation
    assert set(part.instructions) | set(rest.instructions) == set(SUITE.instructions)
    assert len(part.corpora) + len(rest.corpora) == 1  # the one document is on one side; no empty corpus is left


def test_questions_beyond_the_most_are_asked_by_nobody_and_the_cut_does_not_depend_on_them():
    part, rest = set_apart(SUITE, 0.2, 12)
    assert [item.id for item in part.tasks[0].items] == [i.id for i in set_apart(SUITE, 0.2, 10_000)[0].tasks[0].items][
        :12
    ]
    assert rest == set_apart(SUITE, 0.2, 10_000)[1]

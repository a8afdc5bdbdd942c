"""Control tasks against their definition, walked through word by word."""

from __future__ import annotations

import random
from collections import Counter

from keeptune.data.probe_tasks import column_task as columns
from keeptune.data.probe_tasks import control_of, edge_task, label_task
from keeptune.data.treebank import Sentence

TAGS = "NOUN NOUN NOUN VERB DET ADJ".split()


def parts(seed: int = 0, texts: int = 60) -> dict[str, list[Sentence]]:
    draw = random.Random(seed)

    def one(number: int) -> Sentence:
        size = draw.randint(1, 9)
        words = tuple(f"w{draw.randint(0, 400)}" for _ in range(size))
        root = draw.randrange(size)
        heads = tuple("0" if place == root else str(draw.randint(1, size)) for place in range(size))
        return Sentence(str(number), " ".join(words), words, {"upos": tuple(draw.choices(TAGS, k=size)), "head": heads})

    return {part: [one(number) for number in range(texts)] for part in ("train", "dev", "test")}


def words_of(given):
    return {part: [sentence.words for sentence in found] for part, found in given.items()}


def test_a_word_type_has_one_answer_everywhere_and_another_seed_draws_another():
    given = parts()
    task = columns(given, "upos")
    drawn = [control_of(task, words_of(given), seed) for seed in (0, 0, 1)]
    assert drawn[0].answers == drawn[1].answers
    assert drawn[0].answers != drawn[2].answers
    seen: dict[str, int] = {}
    for part, found in given.items():
        for sentence, answers in zip(found, drawn[0].answers[part], strict=True):
            for word, answer in zip(sentence.words, answers, strict=True):
                assert seen.setdefault(word, answer) == answer
    assert len(set(seen.values())) == len(task.classes)


def test_types_draw_from_the_distribution_of_the_training_units():
    given = parts(texts=4000)
    task = columns(given, "upos")
    control = control_of(task, {part: [[f"{n}-{i}" for i in range(len(row))] for n, row in enumerate(found)]
                                for part, found in task.answers.items()}, 3)  # fmt: skip
    wanted = Counter(own for row in task.answers["train"] for own in row)
    got = Counter(own for row in control.answers["train"] for own in row)
    total = wanted.total()
    for answer, count in wanted.items():
        share = count / total
        assert abs(got[answer] / total - share) < 4 * (share * (1 - share) / total) ** 0.5


def test_more_data_changes_no_edge_that_was_drawn():
    small, large = parts(texts=20), parts(texts=60)
    own = control_of(edge_task(small), words_of(small), 0)
    more = control_of(edge_task(large), words_of(large), 0)
    assert own.answers["train"] == more.answers["train"][:20]


def test_an_edge_goes_to_itself_the_first_or_the_last_word_by_type_and_the_root_is_not_asked():
    given = parts()
    task = edge_task(given)
    control = control_of(task, words_of(given), 0)
    possible: dict[str, set[str]] = {}
    for part, found in given.items():
        for sentence, own, drawn in zip(found, task.answers[part], control.answers[part], strict=True):
            for place, (word, head, answer) in enumerate(zip(sentence.words, own, drawn, strict=True)):
                assert (head == -1) == (sentence.columns["head"][place] == "0") == (answer == -1)
                if head >= 0:
                    assert head + 1 == int(sentence.columns["head"][place])
                    ends = {"itself": place, "first": 0, "last": len(own) - 1}
                    fits = {name for name, target in ends.items() if target == answer}
                    possible[word] = possible.get(word, fits) & fits
                    assert possible[word], f"{word} has no one behaviour"
    decided = Counter(name for fits in possible.values() if len(fits) == 1 for name in fits)
    assert set(decided) == {"itself", "first", "last"}
    assert min(decided.values()) > 0.2 * decided.total()


def test_a_whole_text_is_controlled_by_its_type():
    task = label_task({"train": ["a", "b", "a"], "dev": ["a"], "test": ["b"]})
    control = control_of(task, {"train": [["x"], ["y"], ["x"]], "dev": [["x"]], "test": [["y"]]}, 0)
    assert control.answers["train"][0] == control.answers["train"][2] == control.answers["dev"][0]
    assert control.answers["train"][1] == control.answers["test"][0]

"""The embedded suite: eight abilities and three corpora, generated or harvested when it is asked for.

Nothing of it is stored. The questions come from templates and from the skills that pocket was taught (their held-out
contents); the sentences and texts come from the documentation of installed packages, without the places that the
embedded task reads. `docs/evaluation.md` says what each part measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from random import Random

from keeptune.core.errors import MachineError
from keeptune.data.suite import Choice, ChoiceTask, Corpus, Document, Suite, stable_id
from keeptune.pocket.areas import PLACES as TASK_PLACES
from keeptune.pocket.episodes import KINDS, mapping
from keeptune.pocket.grammar import agreement
from keeptune.pocket.harvest import docstrings, reference_topics
from keeptune.pocket.prose import is_plain, paragraphs, sentences
from keeptune.pocket.requests import free_requests
from keeptune.pocket.skills import SKILLS, SkillItem, items

VERSION = "1"
SKILL_TASKS = ("arithmetic", "comparison", "key_recall")
"""Those of pocket's skills that it does not do perfectly: at the ceiling no small loss shows."""
FUNCTION_WORDS = "the a of to is in for and with by on as that from be are".split()

PROSE_PLACES: dict[str, tuple[str, ...]] = {
    "scientific_libraries": (
        "scipy/optimize",
        "scipy/interpolate",
        "scipy/special",
        "scipy/integrate",
        "numpy/lib",
        "numpy/_core",
        "numpy/ma",
        "sympy/core",
        "sympy/physics",
        "sympy/functions",
        "sympy/solvers",
        "sympy/combinatorics",
        "sympy/ntheory",
        "sympy/series",
        "sympy/simplify",
        "networkx/readwrite",
        "networkx/drawing",
        "networkx/linalg",
        "networkx/utils",
        "pandas/core",
        "pandas/io",
    ),
    "learning_libraries": (
        "transformers/generation",
        "transformers/utils",
        "transformers/integrations",
        "transformers/data",
        "torch/distributed",
        "torch/optim",
        "torch/utils",
        "torch/nn/utils",
        "torch/onnx",
        "torch/export",
        "accelerate",
        "datasets/features",
        "peft/utils",
    ),
    "standard_library": ("stdlib",),
}
MOST_FILES = 400
"""Source files read per place."""


@cache
def build_suite(
    name: str = "embedded", seed: int = 0, size: int = 1500, documents: int = 120, instructions: int = 600
) -> Suite:
    """Makes the suite.

    Args:
        name: `embedded`, the only one there is; other suites are files (`data.suite_files`).
        seed: fixes every draw.
        size: questions per task; the sentence tasks have fewer where little documentation is installed.
        documents: documents per corpus.
        instructions: unrelated requests.

    Raises:
        MachineError: too little documentation is installed (E-POCKET-TEXT).
    """
    assert name == "embedded", name
    texts = {corpus: _prose(places) for corpus, places in PROSE_PLACES.items()}
    pool = sorted({s for found in texts.values() for _, p in found for s in sentences(p) if is_plain(s, 8, 18)})
    share = min(size, len(pool) // 3)
    if share < size / 2:
        raise MachineError(
            f"the embedded suite needs {3 * size} sentences and finds {len(pool)}.",
            code="E-POCKET-TEXT",
            why="It reads the docstrings of installed packages, and this installation has few of them.",
            fix="Reinstall the packages with their Python sources, or use a suite file.",
        )
    Random(f"suite/{seed}/sentences").shuffle(pool)
    texts["standard_library"] += [(topic, p) for topic, text in reference_topics().items() for p in paragraphs(text)]
    return Suite(
        name="embedded",
        version=VERSION,
        tasks=(
            _templates("agreement", agreement, seed, size, options=2),
            _word_order(pool[:share], Random(f"suite/{seed}/word_order")),
            _cloze(pool[share : 2 * share], Random(f"suite/{seed}/cloze")),
            _function_words(pool[2 * share :], Random(f"suite/{seed}/function_words"), size),
            _templates("mapping", mapping, seed, size, options=KINDS, chat=True),
            *(_skill(skill, seed, size) for skill in SKILL_TASKS),
        ),
        corpora=tuple(_corpus(corpus, found, seed, documents) for corpus, found in texts.items() if found),
        instructions=free_requests(Random(f"suite/{seed}/instructions"), instructions),
    )


def _prose(places: Iterable[str]) -> list[tuple[str, str]]:
    """(module, paragraph) of every docstring below the places, those of the embedded task left out."""
    found = docstrings(places, without=(*TASK_PLACES, "stdlib/pydoc_data"), most_files=MOST_FILES)
    return [(docstring.module, text) for docstring in found for text in paragraphs(docstring.text)]


def _distinct(made: Iterator[Choice], size: int) -> tuple[Choice, ...]:
    """The first `size` questions with different ids."""
    found: dict[str, Choice] = {}
    for choice in made:
        found.setdefault(choice.id, choice)
        if len(found) == size:
            break
    return tuple(found.values())


def _mixed(identity: str, prompt: str, right: str, wrong: Sequence[str], cluster: str = "") -> Choice:
    """A question whose right option stands anywhere, by the question's id."""
    gold = int(identity, 16) % (len(wrong) + 1)
    return Choice(identity, prompt, (*wrong[:gold], right, *wrong[gold:]), gold, cluster)


def _templates(
    name: str, generator: Callable[[Random], Choice], seed: int, size: int, *, options: int, chat: bool = False
) -> ChoiceTask:
    random = Random(f"suite/{seed}/{name}")
    return ChoiceTask(name, _distinct(iter(lambda: generator(random), None), size), chance=1 / options, chat=chat)


def _word_order(pool: list[str], random: Random) -> ChoiceTask:
    """A sentence against itself with two neighbouring words exchanged, neither the first nor the last."""

    def pair(sentence: str) -> Choice:
        words = sentence.split()
        places = [i for i in range(1, len(words) - 2) if words[i] != words[i + 1] and "," not in words[i]]
        at = random.choice(places)
        swapped = " ".join([*words[:at], words[at + 1], words[at], *words[at + 2 :]])
        return _mixed(stable_id("word_order", sentence), "", sentence, [swapped])

    return ChoiceTask("word_order", tuple(pair(sentence) for sentence in pool), chance=0.5)


def _cloze(pool: list[str], random: Random) -> ChoiceTask:
    """The last four words of a sentence against the last four words of three others."""
    endings = [" " + " ".join(sentence.split()[-4:]) for sentence in pool]
    distinct = sorted(set(endings))

    def question(sentence: str, own: str) -> Choice:
        wrong = [ending for ending in random.sample(distinct, 4) if ending != own][:3]
        return _mixed(stable_id("cloze", sentence), " ".join(sentence.split()[:-4]), own, wrong)

    questions = tuple(question(sentence, own) for sentence, own in zip(pool, endings, strict=True))
    return ChoiceTask("cloze", questions, chance=0.25, normalise="prior")


def _function_words(pool: list[str], random: Random, size: int) -> ChoiceTask:
    """A function word of a sentence and the three words after it, against three other function words there."""

    def question(sentence: str) -> Choice:
        words = sentence.split()
        at = random.choice([i for i in range(2, len(words) - 2) if words[i] in FUNCTION_WORDS])
        wrong = random.sample([word for word in FUNCTION_WORDS if word != words[at]], 3)
        endings = [" ".join(["", word, *words[at + 1 : at + 4]]) for word in (words[at], *wrong)]
        return _mixed(stable_id("function_words", sentence), " ".join(words[:at]), endings[0], endings[1:])

    usable = [s for s in pool if any(word in FUNCTION_WORDS for word in s.split()[2:-2])][:size]
    return ChoiceTask("function_words", tuple(question(sentence) for sentence in usable), chance=0.25)


def _skill(name: str, seed: int, size: int) -> ChoiceTask:
    """Held-out contents of a skill, asked as a user's turn."""

    def choice(item: SkillItem) -> Choice:
        identity = stable_id(item.skill, item.prompt, item.answer)
        return _mixed(identity, item.prompt, item.answer, item.distractors, cluster=item.key)

    stream = items(SKILLS[name], f"suite/{seed}", "test")
    questions = _distinct((choice(item) for item in islice(stream, 20 * size)), size)
    return ChoiceTask(name, questions, chance=1 / len(questions[0].options), chat=True)


def _corpus(name: str, found: list[tuple[str, str]], seed: int, documents: int) -> Corpus:
    """Documents of 400 to 800 characters: neighbouring paragraphs of one module joined.

    A module is a cluster, and gives two documents at most: the interval rests on the number of clusters.
    """
    modules: dict[str, list[str]] = {}
    for module, paragraph in found:
        texts = modules.setdefault(module, [""])
        if len(texts[-1]) >= 400:
            texts.append("")
        texts[-1] = f"{texts[-1]}\n\n{paragraph[:800]}".strip()
    random = Random(f"suite/{seed}/{name}")
    made: dict[str, Document] = {}
    for module, texts in sorted(modules.items()):
        long = [text[:800] for text in texts if len(text) >= 400]
        for text in random.sample(long, min(2, len(long))):
            identity = stable_id(name, text)
            made.setdefault(identity, Document(identity, text, cluster=module))
    return Corpus(name, tuple(random.sample(list(made.values()), min(documents, len(made)))))

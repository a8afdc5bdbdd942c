"""Minimal pairs of English grammar from templates: agreement in number, with and without a distracting noun."""

from __future__ import annotations

from random import Random

from keeptune.data.suite import Choice, stable_id

NOUNS: tuple[tuple[str, str], ...] = tuple(
    (pair.split("/")[0], pair.split("/")[1])
    for pair in (
        "boy/boys girl/girls man/men woman/women child/children king/kings queen/queens soldier/soldiers "
        "doctor/doctors teacher/teachers farmer/farmers friend/friends brother/brothers sister/sisters dog/dogs "
        "cat/cats horse/horses bird/birds cow/cows tree/trees flower/flowers house/houses door/doors window/windows "
        "book/books letter/letters box/boxes chair/chairs table/tables ship/ships boat/boats garden/gardens "
        "road/roads hill/hills river/rivers cup/cups coat/coats hat/hats stone/stones picture/pictures"
    ).split()
)
PEOPLE = NOUNS[:14]
VERBS: tuple[tuple[str, str], ...] = (("is", "are"), ("was", "were"), ("has been", "have been"))
ADJECTIVES = tuple(
    "old young small large beautiful strange quiet dark heavy strong new clean famous poor good dead lost ready".split()
)
PREPOSITIONS = ("near", "behind", "beside", "with", "of", "by", "from", "beyond")
RELATIVES = ("saw", "found", "knew", "liked", "followed", "loved", "remembered")

KINDS = ("plain", "plain", "adjective", "determiner", "determiner", "determiner", "phrase", "relative")
"""Mostly pairs that a small model masters, and some with a noun between subject and verb, for larger ones."""


def agreement(random: Random) -> Choice:
    """Which form of the verb, or of the noun, agrees, as in `The letters near the door` + ` are old.` or ` is old.`."""
    plural = random.randrange(2)
    kind = random.choice(KINDS)
    subject = random.choice(PEOPLE if kind == "relative" else NOUNS)
    if kind == "determiner":
        start = random.choice(("She looked at", "He remembered", "We talked about", "They could see", "I like"))
        adjective = random.choice(ADJECTIVES)
        word = (random.choice(("this", "that")), random.choice(("these", "those")))[plural]
        prompt, endings = f"{start} {word} {adjective}", (f" {subject[0]}.", f" {subject[1]}.")
    else:
        verbs, adjective = random.choice(VERBS), random.choice(ADJECTIVES)
        quality = f"{random.choice(ADJECTIVES)} " if kind == "adjective" else ""
        prompt = f"The {quality}{subject[plural]}{_distraction(random, kind, subject)}"
        endings = (f" {verbs[0]} {adjective}.", f" {verbs[1]} {adjective}.")
    return Choice(stable_id(prompt, *endings), prompt, endings, plural)


def _distraction(random: Random, kind: str, subject: tuple[str, str]) -> str:
    if kind in ("plain", "adjective"):
        return ""
    other = random.choice([noun for noun in NOUNS if noun != subject])
    link = random.choice(PREPOSITIONS) if kind == "phrase" else f"who {random.choice(RELATIVES)}"
    return f" {link} the {other[random.randrange(2)]}"

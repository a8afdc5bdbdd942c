"""The words that the skill generators draw from: kinds of things, names, places, containers."""

from __future__ import annotations

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": tuple(
        "dog cat horse cow sheep lion tiger bear wolf fox rabbit mouse monkey elephant goat pig deer".split()
    ),
    "bird": tuple("eagle hawk crow sparrow robin owl duck goose swan parrot pigeon hen raven gull dove".split()),
    "food": tuple("bread cheese butter soup cake pie meat rice egg honey sugar salt jam pudding bacon".split()),
    "fruit": tuple("apple pear plum cherry orange lemon grape peach banana melon fig strawberry".split()),
    "tool": tuple("hammer saw axe knife shovel spade rake drill needle scissors wrench chisel".split()),
    "clothing": tuple("coat hat shirt dress shoe boot glove scarf skirt jacket stocking apron belt cloak".split()),
    "colour": tuple("red blue green yellow black white brown purple pink grey gold".split()),
    "body part": tuple("hand foot arm leg head eye ear nose mouth knee finger shoulder neck chin elbow".split()),
    "furniture": tuple("chair table bed desk sofa shelf cupboard stool bench wardrobe couch cradle".split()),
    "vehicle": tuple("car train ship boat cart bicycle wagon truck bus carriage plane canoe".split()),
    "weather": tuple("rain snow wind storm fog hail thunder lightning frost sunshine mist breeze".split()),
    "family": tuple("mother father sister brother aunt uncle cousin daughter son nephew niece wife husband".split()),
    "job": tuple("doctor teacher farmer soldier sailor lawyer nurse baker judge driver priest painter".split()),
    "building": tuple("house church school hotel castle barn cottage palace hospital temple prison tower".split()),
    "plant": tuple("tree grass flower rose oak bush weed moss fern ivy lily pine".split()),
    "music": tuple("piano violin drum flute guitar trumpet harp organ bell fiddle".split()),
}
WORDS: tuple[str, ...] = tuple(sorted({word for words in CATEGORIES.values() for word in words}))
COLOURS: tuple[str, ...] = ("red", "blue", "green", "yellow", "black", "white", "brown", "purple", "pink", "grey")
CONTAINERS: tuple[str, ...] = ("box", "bag", "basket", "drawer", "jar", "chest", "bottle", "cup")
OBJECTS: tuple[str, ...] = tuple(
    (
        "coin key ring letter ball book pen candle button stone feather shell map watch rope lamp egg apple spoon doll"
    ).split()
)
NAMES: tuple[str, ...] = tuple(
    "Anna Ben Clara David Emma Frank Grace Henry Ida Jack Kate Leo Mary Nick Olive Peter Rose Sam Tom Lucy".split()
)
PLACES: tuple[str, ...] = tuple(
    (
        "Paris London Rome Berlin Madrid Vienna Boston Chicago Oxford Dublin Cairo Athens Moscow Tokyo Venice Geneva"
    ).split()
)


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"

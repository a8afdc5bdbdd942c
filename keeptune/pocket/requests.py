"""Unrelated free-form requests, made from templates: the questions on which a leaked answer format shows."""

from __future__ import annotations

from random import Random

THINGS = tuple(
    "a garden|a lost dog|the sea|an old clock|a long journey|a winter morning|a small village|a busy market|"
    "the moon|a good friend|a broken window|a birthday|an honest farmer|a train station|a storm at night|"
    "a school play|a quiet lake|a red bicycle|a family dinner|a brave mouse".split("|")
)
ACTIVITIES = tuple(
    "learning to cook|sleeping better|saving money|growing tomatoes|writing a letter|caring for a horse|"
    "learning to swim|keeping a room tidy|making new friends|preparing for an exam|painting a wall|baking bread|"
    "planning a holiday|staying healthy|reading more books|choosing a present".split("|")
)
PUZZLES = tuple(
    "the sky is blue|birds fly south in winter|bread rises in the oven|people dream at night|the tide comes and goes|"
    "iron rusts|leaves change their colour|we need to drink water|cats purr|ice floats|the moon changes its shape|"
    "people keep pets|we celebrate holidays|some animals sleep all winter|music makes people happy".split("|")
)
PEOPLE = tuple(
    "a nurse|a baker|a judge|a pilot|a poet|a fisherman|a gardener|a carpenter|a king|a shopkeeper|a sailor|"
    "a librarian|a musician|a night watchman|a mountain guide".split("|")
)
FRAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Write a short story about {}.", THINGS),
    ("Write a poem about {}.", THINGS),
    ("Describe {} in a few sentences.", THINGS),
    ("What comes to mind when you think of {}?", THINGS),
    ("Tell me something surprising about {}.", THINGS),
    ("Write the first lines of a novel that begins with {}.", THINGS),
    ("Make up a riddle whose answer is {}.", THINGS),
    ("Why might somebody paint a picture of {}?", THINGS),
    ("Write a diary entry that mentions {}.", THINGS),
    ("What would you ask a person who has just seen {}?", THINGS),
    ("Give me three tips for {}.", ACTIVITIES),
    ("How should I start with {}?", ACTIVITIES),
    ("What do people find hard about {}?", ACTIVITIES),
    ("Write an advertisement for a course about {}.", ACTIVITIES),
    ("My father is bad at {}. How can I help him?", ACTIVITIES),
    ("Make a plan for a week of {}.", ACTIVITIES),
    ("What do I need to buy for {}?", ACTIVITIES),
    ("Is {} more fun alone or with friends?", ACTIVITIES),
    ("Who taught you the most about {}?", ACTIVITIES),
    ("Write a short speech about {}.", ACTIVITIES),
    ("Explain to a child why {}.", PUZZLES),
    ("Why is it that {}?", PUZZLES),
    ("My sister wonders why {}. What should I tell her?", PUZZLES),
    ("Write a short dialogue in which somebody asks why {}.", PUZZLES),
    ("Imagine that nobody knew why {}. How could they find out?", PUZZLES),
    ("I have read that {}. Is that true?", PUZZLES),
    ("What would change in the world if it were not so that {}?", PUZZLES),
    ("Tell a story in which it matters that {}.", PUZZLES),
    ("Describe a day in the life of {}.", PEOPLE),
    ("What would {} say about the weather?", PEOPLE),
    ("Write a letter from {} to an old friend.", PEOPLE),
    ("What does {} need to know?", PEOPLE),
    ("Invent a name for {} and tell me why it fits.", PEOPLE),
    ("Write a conversation between {} and a small child.", PEOPLE),
    ("What does {} do on a day off?", PEOPLE),
    ("Which animal would {} like to have?", PEOPLE),
    ("What could {} teach me?", PEOPLE),
    ("Write a toast for {} who turns sixty.", PEOPLE),
)


def free_requests(random: Random, count: int) -> tuple[str, ...]:
    """`count` different requests; all of them, when there are fewer."""
    every = [frame.format(filling) for frame, fillings in FRAMES for filling in fillings]
    return tuple(random.sample(every, min(count, len(every))))

"""Changes in a person's life, in many wordings: what is claimed anew, and what ends."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memos_vllm.cube.model import Item, ItemType
from memos_vllm.plaintext.claims.fold import fold
from memos_vllm.plaintext.claims.validity import holds
from memos_vllm.plaintext.reader.by_rules import read_claims


def say(*texts: str) -> list[Item]:
    """Claims after some turns, a day apart."""
    known: list[Item] = []
    for day, text in enumerate(texts):
        time = datetime(2023, 5, 1 + day, 12, tzinfo=UTC)
        turn = Item(
            type=ItemType.EPISODE, text=text, speaker="alice", time=time, source=f"m{day}:user"
        )
        known = fold(known, read_claims([turn], "alice")).items
    return known


def open_values(items: list[Item], attribute: str) -> list[str | None]:
    at = datetime(2024, 1, 1, tzinfo=UTC)
    return [
        item.claim.value
        for item in items
        if item.claim and item.claim.attribute == attribute and holds(item, at)
    ]


# attribute, said before, said now, new value
CHANGES = [
    ("favourite.player", "My favourite player is Ronaldo.", "My current favourite player is Messi", "Messi"),
    ("favourite.player", "My favourite player is Ronaldo.", "Messi is my favourite player now", "Messi"),
    ("favourite.player", "My favorite player is Ronaldo.", "my new favourite player is Messi", "Messi"),
    ("favourite.colour", "My favourite color is red", "These days my favourite colour is blue", "blue"),
    ("favourite.colour", "My favourite color is red", "My favourite colour has changed to blue.", "blue"),
    ("favourite.colour", "My favourite colour is red", "My favourite color used to be red, but now it's blue", "blue"),
    ("home", "I live in Paris", "I moved from Paris to Madrid", "Madrid"),
    ("home", "I live in Paris", "i live in madrid now", "madrid"),
    ("home", "I live in Paris", "I finally moved to Madrid!", "Madrid"),
    ("home", "I live in Paris", "We've relocated to Madrid.", "Madrid"),
    ("home", "I live in Paris", "I'm now living in Madrid", "Madrid"),
    ("home", "I live in Paris", "Madrid is my new home", "Madrid"),
    ("home", "I live in Paris", "my new home is Madrid", "Madrid"),
    ("home", "I live in Paris", "I currently live in Madrid, not Paris any more", "Madrid"),
    ("home", "I live in Paris", "We have moved to Madrid to live with my parents", "Madrid"),
    ("employer", "I work at Acme", "I left Acme for Globex", "Globex"),
    ("employer", "I work at Acme", "I just started a new job at Globex", "Globex"),
    ("employer", "I work at Acme", "i work for globex now", "globex"),
    ("employer", "I work at Acme", "I got hired by Globex", "Globex"),
    ("employer", "I work at Acme", "New job! It's Globex since Monday.", "Globex"),
    ("cat.name", "My cat is called Miso", "My cat is now called Tofu", "Tofu"),
    ("cat.name", "My cat is called Miso", "We renamed the cat Tofu", "Tofu"),
    ("cat.name", "My cat is called Miso", "my new cat's name is Tofu", "Tofu"),
    ("boss.name", "My boss is called Ann", "My new boss is Mr. Bell", "Mr. Bell"),
    ("job", "I'm a nurse", "I recently became a teacher", "teacher"),
    ("job", "I'm a nurse", "My occupation is now baker", "baker"),
    ("diet", "I'm vegan", "I'm vegetarian these days", "vegetarian"),
    ("age", "I'm 33", "I just turned 34", "34"),
    ("spouse.name", "My wife is called Ann", "My husband's name is Bob", "Bob"),
    ("phone", "My phone number is 555 1234", "My new cell number is 555 9876", "555 9876"),
]  # fmt: skip
# Misses among these were fixed afterwards.
HELD_CHANGES = [
    ("favourite.band", "My favourite band is Muse", "Right now my favourite band is Blur", "Blur"),
    ("favourite.band", "My favourite band is Muse", "my fave band is now Blur", "Blur"),
    ("favourite.band", "My favourite band is Muse", "My absolute favorite band is Blur these days", "Blur"),
    ("favourite.food", "My favorite food is ramen", "I changed my favourite food to curry", "curry"),
    ("favourite.food", "My favorite food is ramen", "Curry has become my favourite food", "Curry"),
    ("favourite.film", "My favourite movie is Alien", "My favorite film is now Heat", "Heat"),
    ("home", "I live in Oslo", "I've just moved to Bergen", "Bergen"),
    ("home", "I live in Oslo", "I've moved back to Bergen", "Bergen"),
    ("home", "I live in Oslo", "I recently relocated from Oslo to Bergen.", "Bergen"),
    ("home", "I live in Oslo", "i moved to bergen last week", "bergen"),
    ("home", "I live in Oslo", "These days I live in Bergen", "Bergen"),
    ("home", "I live in Oslo", "Update: I live in Bergen", "Bergen"),
    ("home", "I live in Oslo", "I'm based in Bergen as of today", "Bergen"),
    ("home", "I live in Oslo", "After all these years I finally settled in Bergen.", "Bergen"),
    ("home", "I live in Oslo", "We live in St. Gallen now", "St. Gallen"),
    ("home", "I live in Oslo", "Big news: we moved house to Bergen", "Bergen"),
    ("employer", "I work for Acme", "I don't work at Acme anymore, I work at Hooli", "Hooli"),
    ("employer", "I work for Acme", "I've joined Hooli!", "Hooli"),
    ("employer", "I work for Acme", "My new employer is Hooli", "Hooli"),
    ("employer", "I work for Acme", "I switched jobs from Acme to Hooli", "Hooli"),
    ("employer", "I work for Acme", "Hooli hired me last week", "Hooli"),
    ("employer", "I work for Acme", "I'm working at Hooli these days", "Hooli"),
    ("employer", "I work for Acme", "I quit my job and now I work for Hooli", "Hooli"),
    ("dog.name", "My dog is named Rex", "We call the dog Max now", "Max"),
    ("dog.name", "My puppy is called Rex", "Actually my dog's name is Max", "Max"),
    ("dentist.name", "My dentist is called Dr. Lee", "My dentist is now Dr. Kim", "Dr. Kim"),
    ("job", "I work as a chef", "I was promoted to head chef", "head chef"),
    ("job", "I'm an accountant", "I'm a data scientist now", "data scientist"),
    ("job", "My profession is lawyer", "I've become a judge", "judge"),
    ("diet", "I'm a vegetarian", "I went vegan", "vegan"),
    ("diet", "I'm a vegetarian", "I have finally become a vegan", "vegan"),
]  # fmt: skip


@pytest.mark.parametrize(("attribute", "before", "now", "value"), CHANGES + HELD_CHANGES)
def test_a_newer_value_is_the_only_open_one(attribute, before, now, value) -> None:
    assert open_values(say(before), attribute), "the fact before is read"
    assert open_values(say(before, now), attribute) == [value]


# attribute, said before, said now
ENDINGS = [
    ("employer", "I work at Acme", "I quit my job"),
    ("employer", "I work at Acme", "I finally quit my job!"),
    ("employer", "I work at Acme", "I got laid off last week."),
    ("employer", "I work at Acme", "I was fired."),
    ("employer", "I work at Acme", "I'm unemployed now"),
    ("employer", "I work at Acme", "I resigned yesterday"),
    ("employer", "I work at Acme", "I no longer work at Acme"),
    ("employer", "I work at Acme", "I stopped working for Acme"),
    ("employer", "I work at Acme", "i don't work there anymore"),
    ("employer", "I work at Acme", "I've retired"),
    ("home", "I live in Paris", "I don't live in Paris any more"),
    ("home", "I live in Paris", "I gave up my flat in Paris."),
    ("home", "I live in Paris", "I left Paris for good"),
    ("allergy:nuts", "I'm allergic to nuts", "I'm no longer allergic to nuts"),
    ("allergy:nuts", "I'm allergic to nuts", "I'm not allergic to nuts any more."),
    ("likes:tea", "I like tea", "I don't like tea any more"),
    ("likes:tea", "I like tea", "I've gone off tea"),
    ("likes:chess", "I love chess", "I'm not into chess anymore"),
    ("diet", "I'm vegan", "I'm not vegan any longer"),
    ("diet", "I'm vegan", "I eat meat again"),
    ("owns:car", "I own a car", "I sold my car"),
    ("owns:bike", "I have a bike", "My bike was stolen"),
    ("cat.name", "My cat is called Miso", "Our cat died last week"),
    ("spouse.name", "My wife is called Ann", "I got divorced"),
    ("learning:spanish", "I'm learning Spanish", "I gave up learning Spanish"),
    ("favourite.colour", "My favourite colour is red", "Red is no longer my favourite color"),
]
HELD_ENDINGS = [
    ("employer", "I work at Acme", "I left my job"),
    ("employer", "I work at Acme", "I lost my job at Acme"),
    ("employer", "I work at Acme", "So I've been let go."),
    ("employer", "I work at Acme", "I'm between jobs at the moment"),
    ("employer", "I work at Acme", "I have quit my full-time job, at last"),
    ("employer", "I work at Acme", "I'm no longer with Acme"),
    ("employer", "I work at Acme", "Acme let me go"),
    ("employer", "I work at Acme", "I resigned from Acme"),
    ("employer", "I work at Acme", "I don't have a job any more"),
    ("home", "I live in Paris", "We moved away from Paris, i moved out of Paris"),
    ("home", "I live in Paris", "I'm not living in Paris any longer"),
    ("home", "I live in Paris", "I used to live in Paris"),
    ("allergy:cats", "I'm allergic to cats", "I outgrew my cats allergy"),
    ("likes:tea", "I like tea", "I no longer enjoy tea"),
    ("likes:tea", "I like tea", "I used to love tea"),
    ("likes:jazz", "I'm into jazz", "I've lost interest in jazz"),
    ("likes:jazz", "I love jazz", "I've stopped liking jazz"),
    ("diet", "I'm a vegetarian", "I'm no longer vegetarian"),
    ("diet", "I'm a vegetarian", "I stopped being a vegetarian"),
    ("owns:flat", "I have an apartment", "We sold our flat"),
    ("owns:car", "I have a car", "I no longer have a car"),
    ("owns:piano", "I have a piano", "I got rid of my piano"),
    ("dog.name", "My dog is named Rex", "My dog passed away in March"),
    ("girlfriend.name", "My girlfriend is called Zoe", "I broke up with my girlfriend"),
    ("learning:german", "I'm learning German", "I stopped learning German"),
    ("job", "I'm a teacher", "I'm no longer a teacher"),
    ("job", "I'm a teacher", "I retired in April"),
]


@pytest.mark.parametrize(("attribute", "before", "now"), ENDINGS + HELD_ENDINGS)
def test_an_ending_leaves_no_older_value_open(attribute, before, now) -> None:
    (value,) = open_values(say(before), attribute)
    assert value
    assert value not in open_values(say(before, now), attribute)


@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        ("I quit my job", "alice quit their job"),
        ("I was laid off", "alice was laid off"),
        ("I'm unemployed now", "alice is unemployed"),
        ("I don't have a job any more", "alice does not have a job any more"),
        ("I broke up with my girlfriend", "alice broke up with their girlfriend"),
        ("My cat died", "alice's cat died"),
        ("I'm not allergic to nuts after all", "alice is not allergic to nuts"),
        ("I stopped eating meat", "alice stopped eating meat"),
        ("I gave up coffee", "alice gave up coffee"),
    ],
)
def test_what_has_ended_is_a_claim_that_holds(text: str, claimed: str) -> None:
    items = say(text)
    assert [item.text for item in items] == [claimed]
    assert items[0].claim is not None
    assert items[0].claim.ends is None


NEGATIONS = [
    ("allergy:nuts", "I'm allergic to nuts", "I'm not allergic to nuts after all"),
    ("allergy:nuts", "I'm allergic to nuts", "It turns out I'm not allergic to nuts"),
    ("likes:coffee", "I love coffee", "I gave up coffee"),
    ("likes:coffee", "I love coffee", "I can't stand coffee"),
    ("likes:tennis", "I love tennis", "I'm not a fan of tennis"),
]


@pytest.mark.parametrize(("attribute", "before", "now"), NEGATIONS)
def test_a_negation_supersedes_the_older_statement(attribute, before, now) -> None:
    (value,) = open_values(say(before), attribute)
    (newer,) = open_values(say(before, now), attribute)
    assert newer != value
    assert (newer or "").startswith(("not ", "no longer "))


@pytest.mark.parametrize(
    "text",
    [
        "I'm not allergic after all",
        "I have no allergies",
        "I'm no longer allergic",
        "I'm not allergic to anything any more",
    ],
)
def test_the_end_of_every_allergy_is_one_claim_about_allergies(text: str) -> None:
    (item,) = say(text)
    assert item.claim is not None
    assert (item.claim.attribute, item.claim.value) == ("allergy", None)


MOVES_OF_NO_HOME = [
    "We have moved to AWS",
    "We moved to Slack last month.",
    "I moved to Linux",
    "I've moved from Windows to Linux",
    "We've moved to Notion",
    "Our team moved to Jira",
    "We moved our servers to Frankfurt",
    "I moved to GitHub",
    "I moved to Node.js and never looked back",
    "I moved to Berlin when I was six",
    "When I was six, I moved to Berlin",
    "When I was six we moved to Berlin.",
    "I moved to Rome as a child",
    "I moved to Rome for a year",
    "We moved the database to Oregon.",
    "I moved on",
]
HELD_MOVES_OF_NO_HOME = [
    "We moved to Basecamp",
    "We have moved to Azure because it is cheaper",
    "I've moved to Windows 11",
    "I moved from PostgreSQL to SQLite",
    "My company moved to Texas",
    "We moved to Kubernetes in March",
    "I moved to Marketing",
    "I moved to Python 3",
    "I recently moved to Obsidian for my notes",
    "We just moved to Teams at work",
    "I moved to Peru when my dad was posted there",
    "At the age of ten I moved to Lima",
    "I moved to Ghent as a student",
    "While we were kids, we moved to Leeds",
    "I moved to Oslo for two years",
    "I moved our code to Bitbucket",
]


@pytest.mark.parametrize("text", MOVES_OF_NO_HOME + HELD_MOVES_OF_NO_HOME)
def test_a_move_without_evidence_of_a_home_ends_no_home(text: str) -> None:
    items = say("I live in Bern", text)
    assert open_values(items, "home") == ["Bern"]
    assert not [item for item in items[1:] if item.claim and item.claim.attribute == "home"]


SAID_OTHERWISE = [
    ("I moved to Oslo after I had finished school", "home", "Oslo"),
    ("My dentist is called Dr. Smith. He is great.", "dentist.name", "Dr. Smith"),
    ("I live in St. Louis, Missouri. It's hot.", "home", "St. Louis, Missouri"),
    ("My favourite author is J. R. R. Tolkien.", "favourite.author", "J. R. R. Tolkien"),
    ("My favourite number is 3.14.", "favourite.number", "3.14"),
    ("I work at St. Mary's Hospital.", "employer", "St. Mary's Hospital"),
    ("New job! It is Globex since Monday.", "employer", "Globex"),
    ("I have a new job. I'm at Globex now.", "employer", "Globex"),
    ("New job: it's Globex", "employer", "Globex"),
    ("We packed everything up: it is Austin for us from here on.", "home", "Austin"),
    ("We moved again. It's Lima now.", "home", "Lima"),
    ("Oslo, that's where we live", "home", "Oslo"),
    ("My badge says Hooli, that is where I earn my money.", "employer", "Hooli"),
    ("We moved into a new flat in Bern", "home", "Bern"),
    ("My wife and I moved to Denver last year", "home", "Denver"),
    ("My current city is Chicago", "home", "Chicago"),
    ("Chicago is where I live now", "home", "Chicago"),
    ("Miso is what we named the cat.", "cat.name", "Miso"),
    ("Rex is the name of our dog", "dog.name", "Rex"),
    ("I have a new boss, her name is Karen", "boss.name", "Karen"),
    ("My name isn't Bob, it's Rob", "name", "Rob"),
    ("My favourite team isn't Arsenal anymore, it's Chelsea", "favourite.team", "Chelsea"),
    ("Adele is no longer my favorite singer, now it's Sia", "favourite.singer", "Sia"),
    ("I used to hate olives but now I love them", "likes:olives", "olives"),
    ("I don't smoke anymore", "habit:smoking", "no"),
    ("I gave up smoking", "habit:smoking", "no"),
    ("I'm no longer lactose intolerant", "intolerance:lactose", "not lactose"),
    ("You can call me Rob", "reply.address", "Rob"),
    ("My new email is bob@example.com", "email", "bob@example.com"),
    ("My girlfriend and I broke up", "girlfriend.name", None),
    ("We had to put our dog down", "dog.name", None),
    ("I'm self-employed now", "employer", None),
]


@pytest.mark.parametrize(("text", "attribute", "value"), SAID_OTHERWISE)
def test_a_statement_in_other_words_is_the_same_claim(text, attribute, value) -> None:
    (item,) = say(text)
    assert item.claim is not None
    assert (item.claim.attribute, item.claim.value) == (attribute, value)


def test_a_contrast_is_two_statements() -> None:
    items = say("I'm allergic to nuts", "Turns out I'm allergic to soy, not nuts")
    assert open_values(items, "allergy:soy") == ["soy"]
    assert open_values(items, "allergy:nuts") == ["not nuts"]
    items = say("I work at Netflix as a designer")
    assert open_values(items, "employer") + open_values(items, "job") == ["Netflix", "designer"]


def test_a_new_job_of_an_unknown_employer_ends_the_last_one() -> None:
    items = say("I work at Acme", "I got a new job as a baker")
    assert open_values(items, "job") == ["baker"]
    assert open_values(items, "employer") == [None]


NO_CHANGE = [
    "My friend quit his job",
    "She moved to Madrid",
    "I might move to Madrid",
    "I would quit my job if I could",
    "I want to quit my job",
    "Should I quit my job?",
    "I almost quit my job",
    "My sister lives in Madrid now",
    "My brother's cat is called Tofu",
    "I'm in Madrid this week",
    "I left my keys at Acme",
    "I quit the app",
    "I lost my job offer",
    "My boss quit her job",
    "I dreamt I moved to Madrid",
    "Tell me how to quit my job",
    "I live in fear now",
    "i work at night now",
    "i moved in with a friend",
    "I gave up on it",
    "I stopped reading at page five",
    "My husband is not allergic to nuts",
    "I moved the sofa to Madrid",
    "My new boss is great",
    "I left Acme a voicemail",
    "I can't live in Madrid",
    "I don't live in Madrid, obviously",
]


@pytest.mark.parametrize("text", NO_CHANGE)
def test_other_people_wishes_and_things_change_nothing(text: str) -> None:
    before = say("I live in Bern. I work at Acme. My cat is called Miso. I'm allergic to nuts.")
    after = say(
        "I live in Bern. I work at Acme. My cat is called Miso. I'm allergic to nuts.", text
    )
    for attribute in ("home", "employer", "cat.name", "allergy:nuts"):
        assert open_values(after, attribute) == open_values(before, attribute)

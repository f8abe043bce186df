"""Forms of clauses that end something: with its value ("I left my job at Acme"), or without."""

from __future__ import annotations

from memos_vllm.plaintext.english.forms import PREFERENCE, Form, ended, forms, over
from memos_vllm.plaintext.english.vocabulary import (
    ANIMAL,
    DIET,
    KEY,
    LANGUAGE,
    LIKE,
    MORE,
    NAME,
    NEW,
    NOT,
    OWNED,
    PERSON_OR_PET,
    PLACE,
    SPOUSE,
    TEMPERAMENT,
    THING,
    WORK,
)

_V = rf"(?P<value>{THING})"
_LOST = r"(?:fired|laid off|let go|made redundant|sacked|dismissed)"
_JOB = rf"my {NEW}(?:[\w-]+ )?(?:job|position|role|post)"
_GONE = r"(?:sold|got rid of|have got rid of|gave away|have given away|donated|traded in|scrapped|totall?ed|crashed|returned|gave up)"
_NO_MORE = r"(?:no longer|not)"
_DRINK = r"(?P<key>eat|drink|smok|consum|hav)ing"

ENDINGS: tuple[Form, ...] = (
    *over(
        rf"I (?:no longer|{NOT}) (?:live|reside) in (?P<value>{PLACE})(?:{MORE})?",
        rf"I am {_NO_MORE} (?:living|based|residing) in (?P<value>{PLACE})(?:{MORE})?",
        rf"I used to (?:live|be based) in (?P<value>{PLACE})",
        rf"I (?:have )?moved (?:away from|out of) (?P<value>{PLACE})",
        rf"I (?:have )?left (?P<value>{PLACE}) for good",
        rf"I (?:have )?(?:stopped|quit) living in (?P<value>{PLACE})",
        rf"I (?:have )?(?:gave|given) up my (?:flat|apartment|house|place|room|home) in (?P<value>{PLACE})",
        rf"(?P<value>{PLACE}) is (?:no longer|not) my home(?:{MORE})?",
        attribute="home",
        text="{person} no longer lives in {value}",
    ),
    *over(
        rf"I (?:no longer|{NOT}) work (?:at|for|with) (?P<value>{NAME})(?:{MORE})?",
        rf"I am {_NO_MORE} (?:working|employed|with) ?(?:at|for|by|with)? (?P<value>{NAME}){MORE}",
        rf"I am no longer (?:(?:working|employed) )?(?:at|for|by|with) (?P<value>{NAME})",
        rf"I used to work (?:at|for|with) (?P<value>{NAME})",
        rf"I (?:have )?(?:quit|left|lost|gave up|given up) {_JOB} (?:at|with) (?P<value>{NAME})",
        rf"I (?:have )?(?:resigned|retired) from (?P<value>{NAME})",
        rf"I (?:have )?(?:stopped|quit|finished) working (?:at|for) (?P<value>{NAME})",
        rf"I (?:was|got|have been) {_LOST} (?:from|by|at) (?P<value>{NAME})",
        rf"I am done (?:working )?(?:at|with) (?P<value>{NAME})",
        rf"(?P<value>{NAME}) (?:fired me|laid me off|let me go|made me redundant)",
        attribute="employer",
        text="{person} no longer works at {value}",
    ),
    *ended(
        rf"I (?P<said>(?:have )?(?:quit|left|lost|resigned from|gave up|given up|walked out of) {_JOB}(?: as an? [\w -]+)?)",
        rf"I (?P<said>(?:was|got|have been|have gotten) {_LOST})(?: (?:from|by|at) (?:work|my \w+))?",
        r"I (?P<said>(?:have )?(?:resigned|quit work|stopped working))",
        r"I (?P<said>am (?:self-employed|freelance|freelancing|my own boss))",
        r"I (?P<said>am (?:unemployed|out of work|between jobs|jobless|out of a job))",
        rf"I (?P<said>{NOT} have a job{MORE})",
        r"I (?P<said>no longer (?:work there|have a job|work))",
        rf"I (?P<said>{NOT} work there{MORE})",
        attribute="employer",
    ),
    *ended(
        r"I (?P<said>(?:have )?retired|am retired|went into retirement|took early retirement)",
        attribute="job",
        also=("employer", "{person} left their last employer"),
    ),
    *over(
        rf"I am {_NO_MORE} an? (?P<value>(?:[\w-]+ ){{0,3}}?{WORK}){MORE}",
        rf"I am no longer an? (?P<value>(?:[\w-]+ ){{0,3}}?{WORK})",
        rf"I (?:no longer|{NOT}) work as an? (?P<value>(?:[\w-]+ ){{0,3}}?[\w-]+?)(?:{MORE})?",
        rf"I used to (?:be|work as) an? (?P<value>(?:[\w-]+ ){{0,3}}?{WORK})",
        rf"I (?:have )?(?:stopped|quit) (?:working as|being) an? (?P<value>(?:[\w-]+ ){{0,3}}?{WORK})",
        attribute="job",
        text="{person} is no longer a {value}",
    ),
    *over(
        rf"I {NOT} {LIKE} {_V}{MORE}",
        rf"I no longer {LIKE} {_V}",
        rf"I (?:have )?stopped (?:liking|loving|enjoying) {_V}",
        rf"I used to (?:{LIKE}|be into|be fond of) {_V}",
        rf"I am no longer (?:into|fond of|keen on|interested in|a {TEMPERAMENT}fan of) {_V}",
        rf"I am not (?:into|fond of|keen on|interested in|a {TEMPERAMENT}fan of) {_V}{MORE}",
        rf"I (?:have )?(?:gone|went) off {_V}",
        rf"I (?:have )?(?:lost (?:all )?interest in|lost my taste for|(?:grew|grown) out of|outgr(?:ew|own)) (?!.*allerg){_V}",
        rf"I (?:have )?(?:got|gotten|grew|grown|am) (?:tired|bored|sick) of {_V}",
        attribute="likes:{value}",
        text="{person} no longer likes {value}",
        is_list=True,
    ),
    *over(
        rf"I am no longer {DIET}",
        rf"I am not {DIET}{MORE}",
        rf"I (?:have )?(?:stopped|quit|gave up|given up) being {DIET}",
        rf"I used to be {DIET}",
        attribute="diet",
        text="{person} is no longer {value}",
    ),
    *ended(
        r"I (?P<said>(?:started |have started |began )?eat(?:ing)? (?:meat|animal products|everything|fish and meat)(?: again)?)",
        r"I (?P<said>(?:went|am|have gone) back to eating (?:meat|everything|animal products))",
        attribute="diet",
        also=("eats:meat", "{person} eats meat"),
    ),
    *over(
        rf"I (?:have )?{_GONE} my (?P<value>{OWNED})",
        rf"my (?P<value>{OWNED}) (?:was|got|has been) (?:stolen|totall?ed|scrapped|sold|destroyed)",
        rf"I {NOT} (?:have|own) (?:a|an|my|that|the) (?P<value>{OWNED}){MORE}",
        rf"I no longer (?:have|own) (?:a|an|my|that|the) (?P<value>{OWNED})",
        rf"I used to (?:have|own) (?:a|an) (?P<value>{OWNED})",
        attribute="owns:{value}",
        text="{person} no longer has a {value}",
    ),
    *ended(
        rf"I (?P<said>am not allergic(?: to (?:anything|it))?(?:{MORE})?)",
        rf"I (?P<said>am no longer allergic(?: to (?:anything|it))?|{NOT} have (?:any|an) allerg(?:y|ies)(?:{MORE})?|have no allergies)",
        attribute="allergy",
    ),
    *over(
        rf"I am no longer allergic to {_V}",
        rf"I am not allergic to {_V}{MORE}",
        r"I no longer have an? (?P<value>[\w-]+(?: [\w-]+)?) allergy",
        r"I (?:have )?(?:outgrew|outgrown|grew out of|grown out of|got over) my (?P<value>[\w-]+(?: [\w-]+)?) allergy",
        r"my (?P<value>[\w-]+(?: [\w-]+)?) allergy (?:is|has|went) (?:gone|away|disappeared|over|gone away)",
        attribute="allergy:{value}",
        text="{person} is no longer allergic to {value}",
        is_list=True,
    ),
    *forms(
        (rf"I am not allergic to {_V}", "allergy:{value}", "{person} is not allergic to {value}"),
        (
            rf"I {NOT} have an? (?P<value>[\w-]+(?: [\w-]+)?) allergy(?:{MORE})?",
            "allergy:{value}",
            "{person} is not allergic to {value}",
        ),
        value="not {value}",
        is_list=True,
    ),
    *over(
        rf"I (?:have )?(?:stopped|quit|gave up|given up) (?:learning|studying) (?P<value>{LANGUAGE})",
        rf"I (?:no longer (?:learn|study)|am no longer (?:learning|studying)) (?P<value>{LANGUAGE})",
        rf"I am not (?:learning|studying) (?P<value>{LANGUAGE}){MORE}",
        attribute="learning:{value}",
        text="{person} is no longer learning {value}",
    ),
    *over(
        rf"my {NEW}favou?rite {KEY} (?:is (?:no longer|not)|used to be) (?P<value>{THING})(?:{MORE})?",
        rf"(?P<value>{THING}) is (?:no longer|not) my favou?rite {KEY}(?:{MORE})?",
        rf"(?P<value>{THING}) used to be my favou?rite {KEY}",
        attribute="favourite.{key}",
        text="{value} is no longer {person}'s favourite {key}",
    ),
    *ended(
        rf"I (?P<said>(?:got|am|have gotten) divorced(?: from my {SPOUSE})?)",
        r"I (?P<said>am (?:single|no longer married)(?: again)?)",
        r"I (?P<said>(?:have )?(?:separated|split up)(?: from my \w+)?)",
        attribute="spouse.name",
    ),
    *ended(
        rf"I (?P<said>(?:have )?(?:broke|broken|split) up with my {PERSON_OR_PET})",
        rf"I (?P<said>(?:have )?(?:rehomed|re-homed|gave away|given away|buried|lost) my {ANIMAL})",
        rf"I (?P<said>had to put my {ANIMAL} (?:down|to sleep)|had to put down my pet)",
        attribute="{key}.name",
    ),
    *forms(
        (
            rf"my {ANIMAL} (?P<said>(?:has )?(?:died|passed away|passed)|is (?:dead|no longer with us)|ran away)",
            "{key}.name",
            "{person}'s {key} {said}",
        ),
        value="",
    ),
    *forms(
        (
            rf"I (?:have )?(?:stopped|quit|gave up|given up) {_DRINK} {_V}",
            "eats:{value}",
            "{person} stopped {key}ing {value}",
        ),
        (
            rf"I no longer (?P<key>eat|drink) {_V}",
            "eats:{value}",
            "{person} no longer {key}s {value}",
        ),
        (
            rf"I {NOT} (?P<key>eat|drink) {_V}{MORE}",
            "eats:{value}",
            "{person} no longer {key}s {value}",
        ),
        value="not {value}",
        type=PREFERENCE,
        is_list=True,
    ),
    *(
        form
        for verb, gerund in (("smoke", "smoking"), ("vape", "vaping"), ("gamble", "gambling"))
        for form in forms(
            (
                rf"I (?:(?:have )?(?:stopped|quit|gave up|given up) {gerund}|used to {verb}|(?:{NOT}|no longer|never) {verb}(?:{MORE})?)",
                f"habit:{gerund}",
                f"{{person}} does not {verb}",
            ),
            value="no",
        )
    ),
    *forms(
        (
            rf"I (?:have )?(?:gave|given) up (?:on )?{_V}",
            "likes:{value}",
            "{person} gave up {value}",
        ),
        (
            rf"I (?:(?:have )?(?:stopped|quit) playing|no longer play) (?:the )?{_V}",
            "likes:{value}",
            "{person} stopped playing {value}",
        ),
        (rf"I {NOT} play (?:the )?{_V}{MORE}", "likes:{value}", "{person} stopped playing {value}"),
        value="no longer {value}",
        type=PREFERENCE,
    ),
    *forms(
        (
            rf"I am {_NO_MORE} (?P<value>lactose|gluten|fructose|histamine)[ -]intolerant(?:{MORE})?",
            "intolerance:{value}",
            "{person} is not {value} intolerant",
        ),
        value="not {value}",
    ),
    *over(
        rf"my {ANIMAL},? (?P<value>{NAME}),? (?:has )?(?:died|passed away|ran away)",
        attribute="{key}.name",
        text="{person}'s {key} {value} is gone",
    ),
)
"""In the order of their trial, before the forms of `statements`."""

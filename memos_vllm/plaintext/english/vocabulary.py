"""Parts of the patterns of statements: names, places, things, relatives, occupations, verbs.

A space in a pattern is any white space.  Names and places need their capitals, except in the clauses of
people who write without any (`CASUAL`).
"""

from __future__ import annotations

# Titles and initials belong to a name: "Dr. Smith", "St. Gallen", "J. R. Tolkien".
_TITLE = r"(?-i:(?:Dr|Mr|Mrs|Ms|Mx|Prof|St|Ste|Mt|Ft|Sgt|Capt|Lt|Col|Gen|Rev|Sir)\.?\s)"
_CAPITAL = r"(?-i:[A-Z\u00c0-\u00de])(?:\.(?=\s)|[\w'&-]*)"
NAME = rf"(?:{_TITLE})?{_CAPITAL}(?:\s{_CAPITAL}){{0,3}}"
PLACE = (
    r"(?:the\s)?(?-i:[A-Z\u00c0-\u00de])[\w'.-]*(?:,?\s(?:(?:de|la|el|of|am|upon|the|do|del|di)\s)?"
    r"(?-i:[A-Z\u00c0-\u00de])[\w'.-]*){0,4}"
)
_NO_LOWER = (
    r"(?:an?|the|my|our|your|his|her|their|its|this|that|these|those|some|any|no|not|very|so|too|such|one|two|three"
    r"|in|on|at|by|of|for|to|with|from|near|under|here|there|home|town|downtown|suburbs?|suburbia|dorms?|halls|college"
    r"|campus|student|residence|accommodation|housing|rented?|shared|fear|hope|peace|pain|denial|poverty|misery|hell"
    r"|squalor|luxury|comfort|isolation|solitude|chaos|darkness|exile|harmony|hiding|sin|silence|shame|style|constant"
    r"|total|absolute|complete|relative|rural|urban|small|big|large|old|new(?!\s(?:york|zealand|delhi|orleans|jersey"
    r"|mexico))|nice|quiet|lovely|different|separate|nearby|abroad|overseas|night|nights|day|days|weekends?|myself"
    r"|free|fun|money|school|university|uni|work|hospital|height|scale|least|most|times|first|last|once|it|him|them"
    r"|us|you|me|people|clients|companies|what|when|where|which|who|called|named|always|never|also|just|really|and|or"
    r"|but|if|because|government|charity|family|friends|parents|everyone|everything|nothing|pretty|kind|bad|good|great"
    r"|fine|ok|okay|sure|important|short|long|common|weird|unique|secret|unknown|irrelevant|confidential|both|all)"
)
LOWER = (
    rf"(?!{_NO_LOWER}\b)[a-z\u00df-\u00ff][\w'-]*(?:\s(?!{_NO_LOWER}\b)[a-z\u00df-\u00ff][\w'-]*)?"
)
"""A name or place of one or two words in lower case."""
CASUAL = ((PLACE, LOWER), (NAME, LOWER))

THING = r"[\w][\w'&/+#. -]{0,60}?[\w+#]|\w"
_KEY_WORD = r"(?!(?:has|have|is|are|was|used|changed|switched|went|became|remains|turned|no|any|anymore|not)\b)[\w-]+"
KEY = rf"(?P<key>{_KEY_WORD}(?: {_KEY_WORD}){{0,2}})"
"""Kind of a favourite: "football player"."""
LANGUAGE = r"(?-i:[A-Z])[a-z]+(?:\s(?-i:[A-Z])[a-z]+)?"
NEW = (
    r"(?:(?:current|new|newest|present|latest|actual|all-time|absolute|personal|number one|one|only|main|own|old"
    r"|full-time|part-time|day) )*"
)
MORE = r" (?:any ?more|any longer)"
_ANIMAL = (
    r"cat|kitten|kitty|dog|puppy|pup|pet|rabbit|bunny|hamster|parrot|bird|budgie|horse|pony|fish|goldfish|turtle"
    r"|tortoise|snake|lizard|gecko|guinea pig|ferret|hedgehog|chicken|donkey|goat"
)
_SPOUSE = r"wife|husband|spouse|partner|girlfriend|boyfriend|fianc[e\u00e9]e?"
_RELATIVE = (
    rf"{_SPOUSE}|son|daughter|child|baby|kid|brother|sister|twin|mother|mom|mum|father|dad|grandmother|grandma"
    r"|grandfather|grandpa|granddaughter|grandson|stepson|stepdaughter|stepmother|stepfather|aunt|uncle|cousin"
    r"|niece|nephew|godson|goddaughter|mother-in-law|father-in-law|friend|boss|manager|supervisor|colleague|coworker"
    r"|co-worker|roommate|flatmate|housemate|neighbou?r|landlord|landlady|teacher|tutor|coach|doctor|gp|dentist"
    r"|therapist|lawyer|accountant|hairdresser|nanny|babysitter"
)
_WHICH = r"(?:(?P<which>other|second|third|older|elder|younger|little|big|eldest|youngest|oldest|best|new|late|first) )?"
KIN = rf"{_WHICH}(?P<key>{_RELATIVE}|{_ANIMAL}|boat|car|band|company|startup)"
PERSON_OR_PET = rf"{_WHICH}(?P<key>{_RELATIVE}|{_ANIMAL})"
ANIMAL = rf"{_WHICH}(?P<key>{_ANIMAL})"
SPOUSE = rf"(?P<key>{_SPOUSE})"
WORK = (
    r"(?:teacher|nurse|doctor|surgeon|physician|dentist|vet|veterinarian|pharmacist|therapist|psychologist|engineer"
    r"|developer|programmer|designer|architect|analyst|scientist|researcher|professor|lecturer|student|lawyer"
    r"|attorney|judge|accountant|banker|consultant|manager|director|chef|cook|baker|barista|bartender|waiter|waitress"
    r"|pilot|driver|farmer|gardener|carpenter|electrician|plumber|mechanic|musician|singer|guitarist|pianist|actor"
    r"|actress|artist|painter|sculptor|photographer|writer|author|journalist|editor|translator|interpreter|librarian"
    r"|historian|biologist|chemist|physicist|mathematician|economist|statistician|firefighter|paramedic"
    r"|police officer|soldier|salesman|saleswoman|salesperson|realtor|entrepreneur|freelancer|secretary|receptionist"
    r"|nanny|hairdresser|tailor|social worker|data scientist|project manager|product manager|coach|flight attendant"
    r"|administrator|sysadmin|technician|welder|bus driver|butcher|florist|optician|midwife|beekeeper|optometrist"
    r"|radiologist|cashier|clerk|tutor|instructor|supervisor|recruiter|marketer|copywriter|animator|illustrator"
    r"|dancer|tester|homemaker|housewife|retiree|pensioner|postman|courier|physiotherapist|nutritionist|dietitian)"
)
OWNED = (
    r"(?:[\w-]+ ){0,3}?(?:car|bike|bicycle|motorbike|motorcycle|scooter|van|truck|boat|kayak|canoe|house|flat"
    r"|apartment|cabin|cottage|garden|farm|cat|kitten|dog|puppy|rabbit|hamster|parrot|horse|pony|turtle|tortoise|snake"
    r"|goldfish|guinea pig|guitar|piano|violin|cello|drum kit|camera|telescope|laptop|tablet|dishwasher|3d printer"
    r"|motorhome|campervan|caravan|tesla|tv|television|treadmill)"
)
MANY = r"(?P<value>two|three|four|five|six|seven|eight|nine|ten|\d{1,2})"
COUNTED = r"(?P<key>kids|children|sons|daughters|brothers|sisters|siblings|cats|dogs|pets|horses|grandchildren)"
LASTING = r"(?:always|from now on,?|in (?:the )?future,?|only ever)"
ANSWER = r"(?:answer|reply|respond|write|talk|speak)(?: (?:to )?me)?"
DIET = r"(?:an? )?(?:strict )?(?P<value>vegan|vegetarian|pescatarian|pescetarian|kosher|halal|flexitarian|keto)"
LIKE = r"(?:like|love|enjoy|adore)"
DISLIKE = r"(?:hate|dislike|detest|loathe|cannot stand|cannot bear|despise)"
NOT = r"(?:do not)"
BEEN_THERE = r"(?:live|reside|am living|am based|am residing|have lived|have been living|have settled(?: down)?|settled(?: down)?|ended up(?: living)?)"
TEMPERAMENT = r"(?:(?:huge|big|great|massive|real|major|avid|lifelong) )?"

"""Detect prompt injection and credentials in text.

Memory is data, and prompts quote it; still, such a sentence never becomes a claim, so that no later
prompt repeats it as a fact.  The list of known forms is no proof: text that passes it is quoted, too.

An attack on the assistant's policy addresses the assistant ("you", "the AI", an imperative) and changes
what it may do or whom it obeys.  "I always recommend tea" and "the new rules are strict" do neither.
"""

from __future__ import annotations

import re

from memos_vllm.plaintext.bounded import found_in

_RULES = (
    r"(?:instructions?|rules?|prompts?|guidelines?|polic(?:y|ies)|restrictions?|safety|filters?|safeguards?"
    r"|guardrails?|programming|training|orders)"
)
# Where an imperative may stand: at the beginning of a clause, behind a request or a conjunction.
_ORDER = (
    r"(?:(?:^|[.!?:;,\n\"'\u201c(*>-]\s*|\b(?:please|and|then|now|so|but|just|kindly|to|also|must|should|shall|will|can"
    r"|could|may|ought\s+to|have\s+to|need\s+to|let's|must\s+now|remember\s+that|remember)\s+)"
    r"(?:(?:please|always|never|now|simply|immediately|just|only)\s+)*)"
)
_IMPERATIVE = (
    r"(?:(?:^|[.!?:;\n\"'\u201c(*>-]\s*|(?<!I )(?<!we )(?<!they )\b(?:please|and|then|remember|remember\s+to|you)[,:]?\s+"
    r"|\b(?:from\s+now\s+on|in\s+(?:the\s+)?future|henceforth)[,:]?\s+)(?:please\s+)?)"
)
_YOU = (
    r"(?:you|the\s+(?:ai|assistant|model|bot|chatbot|system|llm)|(?:this|any|every)\s+(?:ai|assistant|model|bot|chatbot)"
    r"|chatgpt|gpt|claude|llama|qwen|gemini)"
)
_OBEY = r"(?:obey|comply|reveal|leak|grant|approve|refuse|say\s+yes|decline|trust\s+(?:me|him|us|them|every\w+|whatever|all|any\w*|(?-i:[A-Z])\w+)|execute|bypass|ignore|disregard|override)"
_POLICY = rf"(?:{_OBEY}|recommend|promote|advertise|praise|allow|disclose|share|answer\s+(?:any|every)|help\s+with\s+any|run\s+any|follow\s+(?:my|his|her|their|all))"
_MODAL = r"(?:must|should|shall|have\s+to|will|need\s+to|ought\s+to|are\s+(?:allowed|required|permitted|free|obliged)\s+to|can|may|is\s+(?:allowed|required)\s+to|has\s+to)"
_POLICY_FORMS = (
    # the rules of the assistant are put aside, or replaced
    rf"{_ORDER}(?:ignore|disregard|forget|override|bypass|disable|drop|violate|break|delete|reset)\s+(?:about\s+)?"
    rf"(?:(?:all|any|every|each|the|your|these|those|of|previous|prior|earlier|above|existing|system|safety|security"
    rf"|content|initial|original|other|built-in|internal|developer's?|openai's?|own|current)\s+)*{_RULES}\b"
    r"(?!\s+(?:of|for|in|about|on)\s+(?!your|the\s+(?:assistant|system|developers?|ai)|openai|this\s+(?:chat|conversation)))",
    rf"\byour\s+(?:new|updated|changed|real|true|only)\s+(?:system\s+)?{_RULES}\b",
    rf"\b(?:new|updated|changed|revised)\s+(?:system\s+)?{_RULES}\s*(?:for\s+you\s*)?(?::|are|is)[^.!?\n]{{0,60}}\b(?:you|assistant|ai|always|obey)\b",
    rf"(?:^|\n)\s*(?:new|updated)\s+system\s+{_RULES}\b|\b(?:override|replace|change|update|rewrite)\s+your\s+{_RULES}\b",
    r"\b(?:reveal|print|show|repeat|output|leak|display|dump|tell\s+me|give\s+me|what\s+(?:is|are|was|were))\b[^.!?\n]{0,40}"
    r"\b(?:your|the|its|all)\s+(?:\w+\s+)?(?:system|developer|hidden|initial)\s+(?:prompt|message|instructions?)\b",
    r"\b(?:reveal|print|output|leak|dump)\s+(?:system|developer|hidden|initial)\s+(?:prompt|message|instructions?)\b",
    r"\b(?:your|my|the)\s+(?:system|developer|hidden)\s+(?:prompt|message|instructions?)\s+(?:says?|said|is|are|tells?|allows?|now)\b",
    # another role
    r"\byou\s+are\s+now\s+(?!my\s+(?:favou?rite|friend|hero|best))(?:an?|the|in|my|free|no\s+longer|dan|able|allowed|un\w+|[A-Z])",
    r"\bfrom\s+now\s+on,?\s+you(?:'re|\s+are)\b",
    rf"{_IMPERATIVE}(?:act\s+as|behave\s+(?:as|like))\b|\b{_YOU}\s+(?:{_MODAL}\s+)?(?:now\s+)?(?:act\s+as|behave\s+(?:as|like))\s+(?:if|an?\s+un|the|dan|my\s+\w+\s+without)",
    r"\b(?:enter|enable|activate|switch\s+(?:to|into)|turn\s+on|you\s+are\s+(?:now\s+)?in|go\s+into|start)\s+(?:the\s+|your\s+)?"
    r"(?:developer|god|dan|debug|admin|jailbreak|unrestricted|sudo)\s+mode\b|\bdo\s+anything\s+now\b"
    r"|(?:\byou(?:'re|\s+are)?\b[^.!?\n]{0,30}|^\s*)\bjailbr(?:eak|oken)\b",
    # whom to obey, what to recommend
    rf"\b{_YOU}\s+{_MODAL}\s+(?:now\s+|also\s+)*(?:(?:always|never|only)\s+{_POLICY}|{_OBEY})\b",
    rf"\bfrom\s+now\s+on,?\s+{_YOU}\s+(?:{_MODAL}\s+)?(?:always\s+|never\s+|only\s+)?{_POLICY}\b",
    rf"\b{_YOU}\s+(?:always|never)\s+{_OBEY}\b",
    rf"{_IMPERATIVE}(?:always|never)\s+(?!(?:recommend|allow)\b[^.!?\n]{{0,60}}\bme\b){_POLICY}\b(?!\s+me\b)",
    rf"\bfrom\s+now\s+on,?\s+(?:always|never|only)\s+(?!(?:recommend|allow)\b[^.!?\n]{{0,60}}\bme\b){_POLICY}\b(?!\s+me\b)",
    r"(?:^|[.!:,\n]\s*|\byou\s+)(?:always|must|only)\s+obey\b|\bobey\s+(?:me|whoever|everyone|anyone|him|her|them)\b",  # prose: an attack in user language
    # who speaks
    r"\bi(?:\s+am|'m)\s+(?:now\s+)?(?:the|your)\s+(?:\w+\s+)?(?:admin(?:istrator)?|root|superuser|sysadmin|developer|creator|operator|owner|master)"
    r"(?=\s*(?:[.!?,;:\n]|$|and\b|so\b|of\s+(?:you|this|the\s+(?:system|server|ai|assistant|bot|model|chat))))",
    r"\bi(?:\s+am|'m)\s+(?:an?\s+)?(?:root|superuser|admin(?:istrator)?)\b(?=[^.!?\n]{0,40}\b(?:you|grant|obey|access|trust)\b)",
    rf"{_IMPERATIVE}(?:treat|consider|regard)\s+me\s+as\b|\byou\s+(?:must|should|have\s+to|will|shall)\s+(?:treat|consider|regard)\s+me\s+as\b",
    rf"(?:{_IMPERATIVE}|\b{_YOU}\s+(?:\w+\s+){{0,2}})grant\s+(?:me|him|her|them|\w+)\b[^.!?\n]{{0,30}}\b(?:access|rights|permissions?|privileges)\b",
    rf"\b{_YOU}\b[^.!?\n]{{0,60}}\b(?:without|no|free\s+of)\s+(?:any\s+|content\s+|more\s+)*(?:restrictions?|filters?|limits|limitations|censorship|safety|warnings)\b",
    r"\b(?:answer|respond|reply|write|speak)\b[^.!?\n]{0,30}\b(?:without|no)\s+(?:any\s+|content\s+)*(?:restrictions?|filters|limits|limitations|censorship|safety|warnings)\b",
    # the first of these in other languages
    r"\bignor(?:iere?n?|ez|a|ar|ate|e\s+(?:toutes?|les|tes|vos|as|todas|suas))\b[^.!?\n]{0,40}\b(?:anweisungen|regeln|richtlinien|vorgaben|instructions|consignes"
    r"|r\u00e8gles|instrucciones|reglas|instru\u00e7\u00f5es|regras|istruzioni|regole)\b",
    r"(?:\u5ffd\u7565|\u65e0\u89c6|\u7121\u8996|\u5ffd\u89c6)[^\u3002\n]{0,20}(?:\u6307\u4ee4|\u6307\u793a|\u89c4\u5219|\u898f\u5247|\u63d0\u793a)"
    r"|(?:\u6307\u793a|\u547d\u4ee4|\u30eb\u30fc\u30eb|\u898f\u5247)[^\u3002\n]{0,10}\u7121\u8996"
    r"|\u0438\u0433\u043d\u043e\u0440\u0438\u0440\u0443\w+[^.!?\n]{0,40}(?:\u0438\u043d\u0441\u0442\u0440\u0443\u043a\u0446\w+|\u043f\u0440\u0430\u0432\u0438\u043b\w+)",
    # the marks of a prompt
    r"<\|\w+\|?>|\[/?INST\]|<</?SYS>>|</?\s*(?:system|memory|assistant)\b|(?:^|\n)\s*#*\s*(?:system|assistant)\s*:",
)
_SECRET = (
    r"(?:pass(?:word|code|phrase)s?|pwd|pin(?:\s+(?:code|number))?|(?:api|private|secret|access|ssh)[\s_-]*keys?"
    r"|(?:access|auth|bearer)\s+tokens?|(?:client|shared|api|my)\s+secrets?|credentials?|logins?"
    r"|(?:credit|debit)\s+card(?:\s+number)?|cvv|cvc|iban|ssn|social\s+security(?:\s+number)?"
    r"|(?:recovery|2fa|verification|security|door|locker|access)\s+codes?|seed\s+phrase)"
)
_CREDENTIAL_FORMS = (
    rf"\b{_SECRET}\b[^.!?\n]{{0,40}}(?:\bis\b|\bare\b|\bwas\b|:|=)",
    rf"\b(?:remember|store|save|keep|note|memori[sz]e)\b[^.!?\n]{{0,60}}\b{_SECRET}\b",
    r"\b(?:sk|pk|rk)-[\w-]{16,}|\bAKIA[0-9A-Z]{12,}|\bgh[pousr]_\w{20,}|\beyJ[\w-]{10,}\.|\bxox[abp]-[\w-]{10,}"
    r"|-----BEGIN\b|\b(?:\d[ -]?){13,19}\b",
)


def _any_of(forms: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{form})" for form in forms), re.IGNORECASE)


_POLICY_ATTACK = _any_of(_POLICY_FORMS)
_CREDENTIAL = _any_of(_CREDENTIAL_FORMS)


def is_policy_attack(text: str) -> bool:
    """Whether the text addresses the assistant and tries to change its policy."""
    return found_in(_POLICY_ATTACK, text.replace("\u2019", "'"))


def has_credential(text: str) -> bool:
    """Whether the text has a password, key, card number or another credential."""
    return found_in(_CREDENTIAL, text)


def is_instruction(text: str) -> bool:
    """Whether the text tries to change the assistant's policy, or has a credential."""
    return is_policy_attack(text) or has_credential(text)

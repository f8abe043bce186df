"""Detect prompt injection and credentials in text.

Memory is data, and prompts quote it; still, such a sentence never becomes a claim, so that no later
prompt repeats it as a fact.  The list of known forms is no proof: text that passes it is quoted, too.
"""

from __future__ import annotations

import re

_RULES = r"(?:instructions?|rules?|prompts?|guidelines?|polic(?:y|ies)|restrictions?|safety|filters?|safeguards?)"
_SECRET = (
    r"(?:pass(?:word|code|phrase)s?|pwd|pin(?:\s+(?:code|number))?|(?:api|private|secret|access|ssh)[\s_-]*keys?"
    r"|(?:access|auth|bearer)\s+tokens?|secrets?|credentials?|logins?|(?:credit|debit)\s+card(?:\s+number)?|cvv|cvc"
    r"|iban|ssn|social\s+security(?:\s+number)?|(?:recovery|2fa|verification|security|door|locker|access)\s+codes?"
    r"|seed\s+phrase)"
)
_FORMS = (
    rf"\b(?:ignore|disregard|forget|override|bypass|disable|drop|violate)\b[^.!?\n]{{0,40}}\b{_RULES}\b",
    rf"\b(?:new|updated|changed)\s+(?:system\s+)?{_RULES}\s*(?::|are|is)\b",
    r"\b(?:system|developer|hidden|initial)\s+(?:prompt|message|instructions?)\b",
    r"\b(?:you\s+are\s+now|from\s+now\s+on,?\s+you(?:'re|\s+are)|act\s+as|behave\s+(?:as|like))\b",
    r"\b(?:jailbreak|developer\s+mode|god\s+mode|dan\s+mode|do\s+anything\s+now)\b",
    r"\byou\s+(?:must|should|shall|have\s+to|will|may|can|are\s+(?:allowed|required|permitted|free))\s+"
    r"(?:now\s+|always\s+|never\s+|to\s+)*(?:obey|comply|trust|grant|approve|reveal|refuse|answer\s+(?:any|every)"
    r"|execute|run|leak|share|disclose|recommend|help\s+with\s+any)",
    r"\b(?:always|never|must)\s+(?:obey|comply|trust|grant|approve|refuse|recommend|reveal|allow|say\s+yes|decline)\b",
    r"\bi(?:\s+am|'m)\s+(?:now\s+)?(?:an?|the|your)\s+(?:\w+\s+)?(?:admin(?:istrator)?|root|superuser|sysadmin|developer"
    r"\s+of\s+you|creator|operator|owner\s+of\s+(?:this|you))\b",
    r"\b(?:treat|consider|regard)\s+me\s+as\b|\bgrant\s+(?:me|him|her|them|\w+)\b[^.!?\n]{0,30}\b(?:access|rights|permissions?)\b",
    r"\b(?:without|no)\s+(?:any\s+)?(?:restrictions|filters|limits|limitations|censorship|safety|warnings)\b",
    rf"\b{_SECRET}\b[^.!?\n]{{0,40}}(?:\bis\b|\bare\b|\bwas\b|:|=)",
    rf"\b(?:remember|store|save|keep|note|memori[sz]e)\b[^.!?\n]{{0,60}}\b{_SECRET}\b",
    r"\b(?:sk|pk|rk)-[\w-]{16,}|\bAKIA[0-9A-Z]{12,}|\bgh[pousr]_\w{20,}|\beyJ[\w-]{10,}\.|\bxox[abp]-[\w-]{10,}"
    r"|-----BEGIN\b|\b(?:\d[ -]?){13,19}\b",
    r"<\|\w+\|?>|\[/?INST\]|<</?SYS>>|</?\s*(?:system|memory|assistant)\b|(?:^|\n)\s*#*\s*(?:system|assistant)\s*:",
)
_INSTRUCTION = re.compile("|".join(f"(?:{form})" for form in _FORMS), re.IGNORECASE)


def is_instruction(text: str) -> bool:
    """Whether the text tries to change the assistant's policy, or has a credential."""
    return _INSTRUCTION.search(text) is not None

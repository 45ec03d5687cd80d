"""Likely secrets and personal data in a text, by pattern.

A pattern knows a form and not a meaning: it misses what is written otherwise, and finds what only looks like
it. Every pattern takes time in proportion to the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A sort of thing that should seldom be trained on. `holds`: what else has to be true of a match."""

    name: str
    secret: bool
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = bool

    def count(self, text: str) -> int:
        """How many times it stands in the text."""
        return sum(self.holds(match.group()) for match in self.pattern.finditer(text))


def _card(text: str) -> bool:
    """Whether the digits end in the check digit of payment cards (ISO/IEC 7812, Luhn)."""
    digits = [int(letter) for letter in reversed(text) if letter.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    """Whether the check digits are right (ISO 13616, modulo 97)."""
    letters = text.replace(" ", "")
    return (
        15 <= len(letters) <= 34
        and int("".join(str(int(c, 36)) for c in letters[4:] + letters[:4])) % 97 == 1
    )


def _public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _phone(text: str) -> bool:
    return 8 <= sum(letter.isdigit() for letter in text) <= 15  # ITU-T E.164


def _reachable(text: str) -> bool:
    """Whether the domain is not one of those that are kept for examples (RFC 2606)."""
    domain = text.rpartition("@")[2].lower()
    return not re.search(r"(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost)$", domain)


def _kind(name: str, secret: bool, pattern: str, holds: Callable[[str], bool] = bool) -> Kind:
    return Kind(name, secret, re.compile(pattern, re.ASCII), holds)


KINDS = (
    _kind("private key", True, r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY"),
    _kind("AWS access key", True, r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    _kind("GitHub token", True, r"\bgh[opsur]_[0-9A-Za-z]{36}|\bgithub_pat_\w{50}"),
    _kind("GitLab token", True, r"\bglpat-[\w-]{20}"),
    _kind("Hugging Face token", True, r"\bhf_[0-9A-Za-z]{30}"),
    _kind("OpenAI or Anthropic key", True, r"\bsk-(?:proj-|ant-|svcacct-)?[0-9A-Za-z_-]{20}"),
    _kind("Google API key", True, r"\bAIza[0-9A-Za-z_-]{35}"),
    _kind("Slack token", True, r"\bxox[abeprs]-[0-9A-Za-z-]{10}"),
    _kind("Stripe key", True, r"\b[rs]k_live_[0-9A-Za-z]{16}"),
    _kind("JSON Web Token", True, r"\beyJ[\w-]{8,2000}\.eyJ[\w-]{8,4000}\.[\w-]{8}"),
    _kind("password in a URL", True, r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,100}:[^\s/@]{1,100}@"),
    _kind(
        "password after its name",
        True,
        r"(?i)\b(?:password|passwd|pwd|secret|api[_-]?key|auth[_-]?token)[\"']? ?[:=] ?[\"']?(?=\S{0,60}\d)"
        r"[^\s\"',;]{8}",
    ),
    _kind(
        "e-mail address",
        False,
        r"(?:(?<=mailto:)|(?<![\w.+%:/-]))[\w.+%-]{1,64}@[0-9A-Za-z-]{1,63}(?:\.[0-9A-Za-z-]{1,63}){1,4}\b",
        _reachable,
    ),
    _kind("phone number", False, r"(?<![\w+])\+\d[\d ()./-]{6,18}\d\b", _phone),
    _kind(
        "payment card",  # Visa, Mastercard, Discover; American Express
        False,
        r"(?<![\w-])(?:(?:4\d|5[1-5]|2[2-7]|6[05])\d\d(?:[ -]?\d{4}){3}"
        r"|3[47]\d\d[ -]?\d{6}[ -]?\d{5})(?![\w-])",
        _card,
    ),
    _kind("IBAN", False, r"\b[A-Z]{2}\d{2}(?: ?[0-9A-Z]){11,30}\b", _iban),
    _kind(
        "US social security number", False, r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])"
    ),
    _kind("public IP address", False, r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])", _public),
)


def found(text: str) -> Iterator[tuple[Kind, int]]:
    """Each kind that stands in the text, with how many times."""
    for kind in KINDS:
        if number := kind.count(text):
            yield kind, number

"""Secrets are not memory: redacted by checksum, form or label, and nothing else is."""

from __future__ import annotations

import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_vllm.config.redaction import RedactionPolicy
from memos_vllm.governance.redaction.redactor import Redactor
from memos_vllm.governance.redaction.secrets import is_iban, passes_luhn

SECRETS = Redactor(RedactionPolicy())
redact, redact_body = SECRETS.text, SECRETS.body

digits = st.text("0123456789", min_size=1)


def with_luhn(payload: str) -> str:
    return next(payload + check for check in string.digits if passes_luhn(payload + check))


def with_mod97(country: str, rest: str) -> str:
    return next(iban for check in range(2, 99) if is_iban(iban := f"{country}{check:02d}{rest}"))


@pytest.mark.parametrize(
    ("text", "secret", "kind"),
    [
        ("My card is 4111 1111 1111 1111, exp 12/27.", "4111 1111 1111 1111", "card number"),
        ("amex 3782-822463-10005", "3782-822463-10005", "card number"),
        ("IBAN DE89 3704 0044 0532 0130 00 is mine", "DE89 3704 0044 0532 0130 00", "bank account"),
        ("the cvv is 123", "123", "code"),
        ("My SSN is 078-05-1120", "078-05-1120", "social security number"),
        ("my password is hunter2", "hunter2", "password"),
        ("My password is swordfish.", "swordfish", "password"),
        ("Mein Passwort lautet Sommer2024!", "Sommer2024", "password"),
        ("le mot de passe est chat2024", "chat2024", "password"),
        ("mi contraseña es perro123", "perro123", "password"),
        ("la password è gatto77", "gatto77", "password"),
        ("a senha é gato77", "gato77", "password"),
        ("пароль: qwerty77", "qwerty77", "password"),
        ("密码是abc12345", "abc12345", "password"),
        ("パスワードは tanuki77 です", "tanuki77", "password"),
        ("비밀번호는 horang77", "horang77", "password"),
        ("postgres://bob:s3cret@db/x", "s3cret", "password"),
        ("use sk-proj-abcdefgh12345678abcd", "sk-proj-abcdefgh12345678abcd", "key"),
        ('{"user": "bob", "password": "hunter2x"}', "hunter2x", "password"),
        ('{"args": "{\\"password\\": \\"hunter2x\\"}"}', "hunter2x", "password"),
        ("export DB_PASSWORD=hunter2x", "hunter2x", "password"),
        ("mysql --password=hunter2x db", "hunter2x", "password"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI", "key"),
        ("İ PASSWORD: hunter2x", "hunter2x", "password"),
        ("我的密码是abc12345", "abc12345", "password"),
        ("私のパスワードは tanuki77 です", "tanuki77", "password"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE", "key"),
        ("api key: abcd1234efgh", "abcd1234efgh", "key"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "abc", "private key"),
    ],
)  # fmt: skip
def test_a_secret_is_replaced_by_its_kind(text, secret, kind):
    redacted = redact(text)
    assert redacted.count == 1
    assert secret not in redacted.text
    assert f"[{kind} removed]" in redacted.text
    assert redact(redacted.text).count == 0, "idempotent"


@pytest.mark.parametrize(
    "text",
    [
        "my password is too long",
        "The password is stored in the vault.",
        "Reset my password, please.",
        "Bring your Mustang Shelby GT350 to the next level. Create a frame.",
        "I dropped a pin at 12 Rose Lane.",
        "Call +49 170 1234567 or 555 123 4567.",
        "My order is 4111 1111 1111 1112.",
        "ISBN 978-3-16-148410-0 came out in 2024.",
        "Build 2024.11.29.1234 of commit 9f288b6c0ffee is out.",
        "The token ring network and the key of C are old.",
    ],
)
def test_other_texts_are_left_alone(text):
    assert redact(text) == type(redact(text))(text)


@given(st.from_regex(r"4[0-9]{14}", fullmatch=True), st.sampled_from(["", " ", "-"]))
def test_every_card_number_is_found_in_any_grouping_and_none_with_a_wrong_digit(payload, mark):
    card = with_luhn(payload)
    shown = mark.join(card[at : at + 4] for at in range(0, 16, 4))
    assert redact(f"Pay with {shown} please").text == "Pay with [card number removed] please"
    wrong = card[:-1] + str((int(card[-1]) + 1) % 10)
    shown = mark.join(wrong[at : at + 4] for at in range(0, 16, 4))
    assert redact(f"Order {shown} please").count == 0


@given(st.from_regex(r"[0-9]{18}", fullmatch=True))
def test_every_iban_is_found_and_none_with_wrong_check_digits(rest):
    iban = with_mod97("DE", rest)
    assert redact(f"to {iban} now").text == "to [bank account removed] now"
    wrong = f"DE{(int(iban[2:4]) + 1) % 97:02d}{rest}"
    assert is_iban(wrong) or redact(f"to {wrong} now").count == 0


@given(
    st.one_of(
        st.uuids().map(str),
        st.integers(0, 2**128 - 1).map(lambda number: str(uuid.UUID(int=number))),
        st.integers(1000, 9999).map(str),
        st.from_regex(r"\+[1-9][0-9]{0,2} [0-9]{3} [0-9]{3,4} [0-9]{3,4}", fullmatch=True),
        st.from_regex(r"\([0-9]{3}\) [0-9]{3}-[0-9]{4}", fullmatch=True),
        st.from_regex(r"97[89]-[0-9]-[0-9]{2}-[0-9]{6}-[0-9]", fullmatch=True),
        st.from_regex(r"97[89][0-9]{10}", fullmatch=True),
        st.dates().map(str),
        st.datetimes().map(str),
        st.from_regex(r"[0-9]{1,3}(,[0-9]{3}){1,6}", fullmatch=True),
        st.from_regex(r"[0-9]{1,12}", fullmatch=True),
    )
)
def test_numbers_of_other_kinds_are_no_secrets(number):
    assert redact(f"It is {number} there.").count == 0


@given(st.text(max_size=300))
def test_any_text_is_redacted_without_an_error_and_once(text):
    once = redact(text)
    assert redact(once.text).text == once.text


def test_all_parts_of_a_turn_are_redacted():
    body = {
        "user": "card 4111111111111111",
        "reply": "Noted: 4111111111111111",
        "tools": [{"name": "pay", "arguments": "4111111111111111", "result": "ok"}],
        "at_us": 1,
    }
    made, count = redact_body(body)
    assert count == 3
    assert "4111" not in str(made)
    assert made["at_us"] == 1

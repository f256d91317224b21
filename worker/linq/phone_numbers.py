"""The one judge of phone numbers: turns what people type into E.164. The library knows the numbering plans."""

import re
from typing import Final

import phonenumbers
from phonenumbers import NumberParseException, ValidationResult

from worker.errors import UsageError

SEPARATORS: Final = re.compile(r"[\s().\-/\u2010-\u2015]+")
"""What people type between the digits."""

WRONG: Final = {
    ValidationResult.INVALID_COUNTRY_CODE: "no country has its code",
    ValidationResult.TOO_SHORT: "it is too short",
    ValidationResult.TOO_LONG: "it is too long",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "its area code is missing",
    ValidationResult.INVALID_LENGTH: "its country has no numbers of that length",
}


def e164(text: str) -> str:
    """Return a typed phone number in E.164: `+1 (415) 555-0100` becomes `+14155550100`.

    Only checks that the number is possible, not that it is assigned: numbering plans change faster than libraries.

    Raises:
        UsageError: it is not a phone number, or has no country code.
    """
    digits = SEPARATORS.sub("", text)
    if re.fullmatch(r"[0-9]+", digits):
        raise UsageError(f"{text!r} has no country code; {_with_country_code(digits)}")
    if not re.fullmatch(r"\+[0-9]+", digits):
        msg = f"{text!r} is not a phone number; write it as + and digits, such as +14155550100"
        raise UsageError(msg)
    try:
        number = phonenumbers.parse(digits)
    except NumberParseException as error:
        why = "no country has its code" if error.error_type == error.INVALID_COUNTRY_CODE else "it is too short"
        if error.error_type == error.TOO_LONG:
            why = "it is too long"
        raise UsageError(f"{text!r} cannot be a phone number: {why}") from None
    reason = phonenumbers.is_possible_number_with_reason(number)
    if reason != ValidationResult.IS_POSSIBLE:
        msg = f"{text!r} cannot be a phone number: {WRONG.get(reason, 'no country has such numbers')}"
        raise UsageError(msg)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _with_country_code(digits: str) -> str:
    """Advice for a number without country code; perhaps only the `+` is missing."""
    try:
        if phonenumbers.is_valid_number(phonenumbers.parse("+" + digits)):
            return f"did you mean +{digits}?"
    except NumberParseException:
        pass
    return "begin it with + and the code, such as +14155550100"

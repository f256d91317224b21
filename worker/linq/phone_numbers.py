"""Phone numbers as people type them, made into E.164; the numbering plans are the library's."""

import re
from typing import Final

import phonenumbers
from phonenumbers import NumberParseException, ValidationResult

from worker.errors import UsageError

SEPARATORS: Final = re.compile(r"[\s().\-/\u2010-\u2015]+")
"""What people put between the digits; a letter is no digit, though a telephone's keys have some."""

WRONG: Final = {
    ValidationResult.INVALID_COUNTRY_CODE: "no country has its code",
    ValidationResult.TOO_SHORT: "it is too short",
    ValidationResult.TOO_LONG: "it is too long",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "its area code is missing",
    ValidationResult.INVALID_LENGTH: "its country has no numbers of that length",
}


def e164(text: str) -> str:
    """The number that a text means, in E.164: `+1 (415) 555-0100` is `+14155550100`.

    Whether it is in use is Linq's to say; numbering plans change faster than libraries.

    Raises:
        UsageError: it is no phone number, or lacks its country code.
    """
    digits = SEPARATORS.sub("", text)
    if re.fullmatch(r"[0-9]+", digits):
        raise UsageError(f"{text!r} has no country code; {_with_country_code(digits)}")
    if not re.fullmatch(r"\+[0-9]+", digits):
        msg = f"{text!r} is no phone number; write one as + and digits, such as +14155550100"
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
    """What to do about a number without its `+`: perhaps that is all it lacks."""
    try:
        if phonenumbers.is_valid_number(phonenumbers.parse("+" + digits)):
            return f"did you mean +{digits}?"
    except NumberParseException:
        pass
    return "begin it with + and the code, such as +14155550100"

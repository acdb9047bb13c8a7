"""A check beside those that schemathesis has."""

import re

import schemathesis

# What is refused though it is well formed.
OF_THE_SHOP = re.compile(
    "User already exists"
    "|Product already exists"
    "|User not found"
    "|Product .{0,64} not found"
    "|Product .{0,64} out of stock"
    "|Total too large, expected at most [0-9]+"
    "|Order not found"
    "|Order is [A-Z]+ and cannot become [A-Z]+",
    re.DOTALL,
)


@schemathesis.check
def well_formed_is_refused_for_what_it_says(ctx, response, case):
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 400:
        return
    error = response.json().get("error", "")
    assert OF_THE_SHOP.fullmatch(error), f"well formed by the document, and refused: {error}"

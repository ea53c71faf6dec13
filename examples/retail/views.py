"""What the four models of the retail example see, and what its aggregates may hold."""

from __future__ import annotations

from pipeline.invariants import ContextTypeRules, FieldRule
from synchroscope.view import View

RECOMMENDER = "recommender"
FRAUD_SCORER = "fraud-scorer"
OFFER_PRICER = "offer-pricer"
COMPLIANCE_CHECKER = "compliance-checker"

BEHAVIOURAL = "behavioural"
FINANCIAL = "financial"
GEOGRAPHIC = "geographic"

PRODUCTS_SEEN = 10
MAXIMUM_NAME_CHARACTERS = 100
MAXIMUM_MONEY = 1e18

_PUBLIC = {GEOGRAPHIC: frozenset({"country"}), BEHAVIOURAL: frozenset({"last_product"})}

VIEWS = (
    View(
        RECOMMENDER,
        {
            BEHAVIOURAL: frozenset({"last_product", "products_seen", "basket"}),
            GEOGRAPHIC: frozenset({"country"}),
        },
        _PUBLIC,
    ),
    View(
        FRAUD_SCORER,
        {
            FINANCIAL: frozenset({"basket_value", "spend", "cancellations"}),
            BEHAVIOURAL: frozenset({"basket"}),
            GEOGRAPHIC: frozenset({"country"}),
        },
        _PUBLIC,
    ),
    View(
        OFFER_PRICER,
        {
            FINANCIAL: frozenset({"basket_value", "spend"}),
            BEHAVIOURAL: frozenset({"last_product"}),
        },
        _PUBLIC,
    ),
    View(
        COMPLIANCE_CHECKER,
        {
            FINANCIAL: frozenset({"spend", "cancellations"}),
            GEOGRAPHIC: frozenset({"country"}),
        },
        _PUBLIC,
    ),
)

_NAME = FieldRule(kind="text", maximum_length=MAXIMUM_NAME_CHARACTERS)
_PUBLIC_NAME = FieldRule(kind="text", maximum_length=MAXIMUM_NAME_CHARACTERS, personal=False)

RULES = {
    BEHAVIOURAL: ContextTypeRules(
        {
            "last_product": _PUBLIC_NAME,
            "products_seen": FieldRule(kind="list", maximum_length=PRODUCTS_SEEN),
            "basket": FieldRule(kind="object", maximum_length=3),
        }
    ),
    FINANCIAL: ContextTypeRules(
        {
            "basket_invoice": _NAME,
            "basket_value": FieldRule(kind="number", minimum=0.0, maximum=MAXIMUM_MONEY),
            "spend": FieldRule(
                kind="number", minimum=-MAXIMUM_MONEY, maximum=MAXIMUM_MONEY, required=True
            ),
            "cancellations": FieldRule(kind="integer", minimum=0, required=True),
        }
    ),
    GEOGRAPHIC: ContextTypeRules({"country": _PUBLIC_NAME}),
}

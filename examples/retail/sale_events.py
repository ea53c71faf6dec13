"""Which context events a sale makes, given what is known of its customer.

A sale changes what the customer is doing (behavioural) and spends (financial), and where they are
(geographic) when that changed; a cancellation is financial, and geographic when that changed. Who
has no customer number is known by the invoice alone: the session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from examples.retail.sale import Sale
from examples.retail.views import (
    BEHAVIOURAL,
    COMPLIANCE_CHECKER,
    FINANCIAL,
    FRAUD_SCORER,
    GEOGRAPHIC,
    OFFER_PRICER,
    PRODUCTS_SEEN,
    RECOMMENDER,
)
from synchroscope.event import (
    UPDATED,
    ContextDelta,
    ContextEvent,
    PropagationRules,
    Source,
    Update,
    subject_of,
)

NAMESPACE = UUID("2f6b7d0e-3c51-5a94-b0a6-71c8e5d94f12")
BEHAVIOUR_TTL_SECONDS = 3_600
MONEY_DIGITS = Decimal("0.0001")

Values = Mapping[str, Any]
KnownValues = Callable[[str, str], Values]
"""(context type, subject) -> field -> present value."""

_TILLS = (Source("shop-frontend", "till-1"), Source("shop-frontend", "till-2"))
_BEHAVIOUR = PropagationRules(
    target_models=(RECOMMENDER, FRAUD_SCORER, OFFER_PRICER), ttl=BEHAVIOUR_TTL_SECONDS
)
_SPENDING = PropagationRules(target_models=(FRAUD_SCORER, OFFER_PRICER, COMPLIANCE_CHECKER))
_OWING = PropagationRules(target_models=(FRAUD_SCORER, COMPLIANCE_CHECKER))
_CANCELLING = PropagationRules(target_models=(FRAUD_SCORER, COMPLIANCE_CHECKER), priority="high")
_EVERYONE = PropagationRules()


def events_of(sale: Sale, file: str, line: int, known: KnownValues) -> list[ContextEvent]:
    """Return the sale's events in order: behavioural, financial, geographic.

    Their IDs come from file and line, so that a line read twice makes the same events. Their
    correlation ID is ``invoice-line``, what one reads off the invoice and its file.
    """
    session = sale.invoice
    subject = subject_of(sale.customer, session)
    changes: list[tuple[str, dict[str, Any], PropagationRules]] = []
    if not sale.is_cancellation:
        changes.append((BEHAVIOURAL, _behaviour(sale, known(BEHAVIOURAL, subject)), _BEHAVIOUR))
    money = _money(sale, known(FINANCIAL, subject))
    changes.append((FINANCIAL, money, _money_rules(sale, money)))
    if sale.country and known(GEOGRAPHIC, subject).get("country") != sale.country:
        changes.append((GEOGRAPHIC, {"country": sale.country}, _EVERYONE))
    return [
        ContextEvent(
            event_id=uuid5(NAMESPACE, f"{file}:{line}:{context_type}"),
            timestamp=sale.time,
            event_type=UPDATED,
            source=_TILLS[ord(sale.invoice[-1]) % 2],
            context_delta=ContextDelta(
                updates={name: Update(current=value) for name, value in values.items()},
                user_id=sale.customer,
                session_id=session,
            ),
            propagation_rules=rules,
            context_type=context_type,
            correlation_id=f"{sale.invoice}-{line}",
        )
        for context_type, values, rules in changes
    ]


def _behaviour(sale: Sale, before: Values) -> dict[str, Any]:
    seen = [code for code in before.get("products_seen", ()) if code != sale.stock_code]
    basket = before.get("basket", {})
    lines, units = 0, 0
    if basket.get("invoice") == sale.invoice:
        lines, units = basket["lines"], basket["units"]
    return {
        "last_product": sale.stock_code,
        "products_seen": [*seen, sale.stock_code][-PRODUCTS_SEEN:],
        "basket": {"invoice": sale.invoice, "lines": lines + 1, "units": units + sale.quantity},
    }


def _money(sale: Sale, before: Values) -> dict[str, Any]:
    spend = _decimal(before.get("spend", 0)) + sale.value
    cancellations = before.get("cancellations", 0)
    if sale.is_cancellation:
        return {"spend": _float(spend), "cancellations": cancellations + 1}
    # A basket's value outlives the basket itself, which expires while a long invoice is written.
    is_same_basket = before.get("basket_invoice") == sale.invoice
    basket_value = _decimal(before.get("basket_value", 0)) if is_same_basket else Decimal(0)
    return {
        "basket_invoice": sale.invoice,
        "basket_value": _float(basket_value + sale.value),
        "spend": _float(spend),
        "cancellations": cancellations,
    }


def _money_rules(sale: Sale, money: Values) -> PropagationRules:
    if sale.is_cancellation:
        return _CANCELLING
    return _OWING if money["spend"] < 0 else _SPENDING


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number))


def _float(amount: Decimal) -> float:
    return float(amount.quantize(MONEY_DIGITS)) + 0.0  # -0.0 becomes 0.0

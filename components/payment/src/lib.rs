//! What is paid, and the ledger of it.
//!
//! A call of a neighbour is one write, in which all is done or nothing: its key, the payment's state, the transfer in the
//! ledger and the event. What is decided on is read before. Where the call was made before or another came in between, the
//! write meets a key or a transfer that is there already and does nothing; then the key is looked up, and the call looked at
//! anew. Nearly all keys are new, so who takes money does not look them up first.
//!
//! Nothing is ever removed, on purpose: payments and transfers are the ledger, and its proof; a key whose use was forgotten
//! would take the money a second time, whenever the call comes again. Old ones can go into an archive together with their
//! payments, when nobody can repeat their calls any more; that is for who keeps the books to decide, and not for a timer.

mod charge;
mod ledger;
mod payment;
mod rule;

use charge::{Charge, Request, check_key};
use money::Money;
use payment::{Payment, Status, Transfer};
use rule::Rule;
use serde::{Deserialize, Serialize};
use wharf_sdk::{
    Error, Json, Path, Query, Result, Router,
    db::{self, FromRow, Row, Statement},
    events::{NewEvent, OutboxError, PublishError},
    fault::{Fault, FaultKind},
    new_id, params, time,
};

mod wit {
    #![allow(missing_docs, unsafe_code, reason = "generated")]
    wharf_sdk::wit! {
        path: ["../../wit/shop/payments"],
        world: "package shop:payment; world payment { export shop:payments/payments@0.1.0; }",
    }
}
use wit::exports::shop::payments::payments::{self, PaymentError, RefundOutcome, Refundable};

wharf_sdk::service! {
    /// Takes payments, and gives them back.
    pub struct PaymentService {
        routes: routes,
        ready: ready,
        migrations: [("create payments", include_str!("../migrations/1-create-payments.sql"))],
    }
}

wit::export!(PaymentService with_types_in wit);

const LIST_MAX: u32 = 100;

/// How often a call is looked at anew. A payment has three steps, so there is never a reason for more.
const LOOKS: u32 = 8;

fn routes() -> Router {
    Router::new().get("/payments", list_payments).get("/payments/{id}", get_payment).get("/ledger", ledger::get_ledger)
}

/// The rule of the manifest has to be one.
async fn ready() -> Result<(), String> {
    Rule::configured().map(drop)
}

/// The payload of `payment.authorised`, `payment.captured` and `payment.refunded`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PaymentChanged<'a> {
    payment_id: &'a str,
    order_id: &'a str,
    user_id: &'a str,
    amount: Money,
    status: Status,
}

/// The query of `GET /payments`: those of an order, the newest first.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfOrder {
    order_id: String,
}

async fn list_payments(Query(OfOrder { order_id }): Query<OfOrder>) -> Result<Json<Vec<Payment>>> {
    let payments = db::query(
        "SELECT id, order_id, user_id, amount, status, reason, created_at FROM payments \
         WHERE order_id = $1 ORDER BY id DESC LIMIT $2",
        params![order_id, LIST_MAX],
    )
    .await?;
    Ok(Json(payments))
}

async fn get_payment(Path(id): Path<String>) -> Result<Json<Payment>> {
    find_payment(&id).await?.map(Json).ok_or(Error::not_found("Payment not found"))
}

async fn find_payment(id: &str) -> db::Result<Option<Payment>> {
    db::query_optional(
        "SELECT id, order_id, user_id, amount, status, reason, created_at FROM payments WHERE id = $1",
        params![id],
    )
    .await
}

/// What a key was used for.
struct Call {
    request: Option<String>,
    payment: Option<Payment>,
}

impl Call {
    async fn find(key: &str) -> db::Result<Option<Self>> {
        db::query_optional(
            "SELECT request, id, order_id, user_id, amount, status, reason, created_at \
             FROM calls LEFT JOIN payments ON payments.id = calls.payment_id WHERE key = $1",
            params![key],
        )
        .await
    }

    /// The statement that marks a key as used.
    fn insert(key: &str, request: Option<&str>, payment: Option<&str>) -> Statement {
        db::statement(
            "INSERT INTO calls (key, request, payment_id) VALUES ($1, $2, $3)",
            params![key, request.map(str::to_owned), payment.map(str::to_owned)],
        )
    }
}

impl FromRow for Call {
    fn from_row(row: &mut Row<'_>) -> db::Result<Self> {
        let payment = if row.is_null("id")? { None } else { Some(Payment::from_row(row)?) };
        Ok(Self { request: row.take("request")?, payment })
    }
}

/// What neighbours call.
impl payments::Guest for PaymentService {
    async fn authorise(key: String, charge: payments::Charge) -> Result<payments::Payment, PaymentError> {
        check_key(&key).map_err(PaymentError::Invalid)?;
        let payments::Charge { order_id, user_id, amount, method } = charge;
        let charge = Charge::new(order_id, user_id, amount, method).map_err(PaymentError::Invalid)?;
        let request = text_of(&Request::Authorise(&charge))?;
        for _ in 0..LOOKS {
            let now = time::now();
            let reason = Rule::configured().map_err(internal)?.declines(&charge);
            let payment = charge.clone().into_payment(new_id(now), now.to_string(), reason);
            let insert = db::statement(
                "INSERT INTO payments (id, order_id, user_id, amount, status, reason, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
                params![
                    &payment.id,
                    &payment.order_id,
                    &payment.user_id,
                    payment.amount,
                    payment.status,
                    payment.reason.clone(),
                    &payment.created_at
                ],
            );
            let mark = Call::insert(&key, Some(&request), Some(&payment.id));
            let transfer = (payment.status == Status::Authorised).then_some(Transfer::authorisation());
            if write(vec![insert, mark], transfer, &payment).await? {
                return authorised(payment);
            }
            if let Some(call) = Call::find(&key).await? {
                let Some(payment) = of_same_request(call, &request)? else { return Err(PaymentError::CalledOff) };
                return authorised(payment);
            }
        }
        Err(too_many_looks())
    }

    async fn capture(key: String, payment_id: String) -> Result<payments::Payment, PaymentError> {
        check_key(&key).map_err(PaymentError::Invalid)?;
        let request = text_of(&Request::Capture(&payment_id))?;
        for _ in 0..LOOKS {
            let found = find_payment(&payment_id).await?.ok_or(PaymentError::NotFound);
            let possible = found.and_then(|payment| match Transfer::capture_of(payment.status) {
                Some(transfer) => Ok((payment, transfer)),
                None => Err(PaymentError::NotPossible(payment.status.into())),
            });
            let refusal = match possible {
                Ok((payment, transfer)) => {
                    let mark = Call::insert(&key, Some(&request), Some(&payment.id));
                    if write(vec![mark], Some(transfer), &payment).await? {
                        return Ok(Payment { status: transfer.status, ..payment }.into());
                    }
                    None
                }
                Err(error) => Some(error),
            };
            // Before it is refused: it may be what this very call has made of it.
            if let Some(call) = Call::find(&key).await? {
                let payment = of_same_request(call, &request)?.ok_or(PaymentError::Conflict)?;
                return match payment.status {
                    Status::Refunded => Err(PaymentError::CalledOff),
                    _ => Ok(payment.into()),
                };
            }
            if let Some(error) = refusal {
                return Err(error);
            }
        }
        Err(too_many_looks())
    }

    async fn refund(key: String, refundable: Refundable) -> Result<RefundOutcome, PaymentError> {
        check_key(&key).map_err(PaymentError::Invalid)?;
        let request = match &refundable {
            Refundable::Payment(id) => text_of(&Request::Refund(id))?,
            Refundable::Authorisation(authorisation) => {
                check_key(authorisation).map_err(PaymentError::Invalid)?;
                if *authorisation == key {
                    return Err(PaymentError::Invalid("the key is that of the authorisation".to_owned()));
                }
                text_of(&Request::CallOff(authorisation))?
            }
        };
        for _ in 0..LOOKS {
            if let Some(call) = Call::find(&key).await? {
                return Ok(of_same_request(call, &request)?.into());
            }
            let (payment, bar) = match &refundable {
                Refundable::Payment(id) => (Some(find_payment(id).await?.ok_or(PaymentError::NotFound)?), None),
                Refundable::Authorisation(authorisation) => match Call::find(authorisation).await? {
                    Some(call) if call.is_authorisation() => (call.payment, None),
                    Some(_) => return Err(PaymentError::Conflict),
                    None => (None, Some(Call::insert(authorisation, None, None))),
                },
            };
            let mark = Call::insert(&key, Some(&request), payment.as_ref().map(|payment| payment.id.as_str()));
            let statements = bar.into_iter().chain([mark]).collect();
            let Some(payment) = payment else {
                if done(db::batch(statements).await.map(drop).map_err(OutboxError::Store))? {
                    return Ok(RefundOutcome::Nothing);
                }
                continue;
            };
            let transfer = Transfer::refund_of(payment.status);
            if write(statements, transfer, &payment).await? {
                let status = transfer.map_or(payment.status, |transfer| transfer.status);
                return Ok(Some(Payment { status, ..payment }).into());
            }
        }
        Err(too_many_looks())
    }
}

impl Call {
    /// Whether the key is that of an authorisation, also one that was called off before it came.
    fn is_authorisation(&self) -> bool {
        self.request.as_deref().is_none_or(|request| request.starts_with(r#"{"authorise":"#))
    }
}

/// Writes statements together with a transfer of the payment and its event, or nothing where another call came first.
async fn write(
    mut statements: Vec<Statement>,
    transfer: Option<Transfer>,
    payment: &Payment,
) -> Result<bool, PaymentError> {
    let mut events = Vec::new();
    if let Some(Transfer { step, source, target, status, topic }) = transfer {
        statements.push(db::statement(
            "INSERT INTO transfers (payment_id, step, source, target, amount, at) VALUES ($1, $2, $3, $4, $5, $6)",
            params![&payment.id, step, source, target, payment.amount, time::now().to_string()],
        ));
        if status != payment.status {
            statements
                .push(db::statement("UPDATE payments SET status = $1 WHERE id = $2", params![status, &payment.id]));
        }
        let Payment { id, order_id, user_id, amount, .. } = payment;
        let changed = PaymentChanged { payment_id: id, order_id, user_id, amount: *amount, status };
        events.push(NewEvent::about(topic, id, &changed).map_err(OutboxError::Publish)?);
    }
    done(db::batch_and_publish(statements, events).await.map(drop))
}

/// Whether it was written: not where another call with the key, or another step of the payment, came first.
fn done(written: Result<(), OutboxError>) -> Result<bool, PaymentError> {
    match written {
        Ok(()) => Ok(true),
        Err(OutboxError::Store(error)) if db::is_duplicate(&error) || matches!(error, db::Error::Busy(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What a call that was made before has come to, where it was this one.
fn of_same_request(call: Call, request: &str) -> Result<Option<Payment>, PaymentError> {
    match call.request {
        // Called off before it came, so nobody knows what it would have been.
        None if request.starts_with(r#"{"authorise":"#) => Ok(None),
        Some(before) if before == request => Ok(call.payment),
        _ => Err(PaymentError::Conflict),
    }
}

/// The answer to an authorisation.
fn authorised(payment: Payment) -> Result<payments::Payment, PaymentError> {
    match payment.status {
        Status::Authorised | Status::Captured => Ok(Payment { status: Status::Authorised, ..payment }.into()),
        Status::Declined => Err(PaymentError::Declined(payment.reason.unwrap_or_default())),
        Status::Voided | Status::Refunded => Err(PaymentError::CalledOff),
    }
}

fn text_of(request: &Request<'_>) -> Result<String, PaymentError> {
    serde_json::to_string(request).map_err(internal)
}

fn internal(detail: impl std::fmt::Display) -> PaymentError {
    eprintln!("internal error: {detail}");
    let message = "the payment service is at fault".to_owned();
    PaymentError::Fault(Fault { kind: FaultKind::Trapped, message, retry_after_ms: None })
}

fn too_many_looks() -> PaymentError {
    let message = "too many calls for one payment at a time".to_owned();
    PaymentError::Fault(Fault { kind: FaultKind::Overloaded, message, retry_after_ms: None })
}

// === impl payments ===

impl From<Payment> for payments::Payment {
    fn from(Payment { id, order_id, user_id, amount, status, .. }: Payment) -> Self {
        Self { id, order_id, user_id, amount: amount.minor(), status: status.into() }
    }
}

impl From<Status> for payments::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Authorised => Self::Authorised,
            Status::Captured => Self::Captured,
            Status::Voided => Self::Voided,
            Status::Refunded => Self::Refunded,
            Status::Declined => Self::Declined,
        }
    }
}

/// What the payment that was to be given back has become.
impl From<Option<Payment>> for RefundOutcome {
    fn from(payment: Option<Payment>) -> Self {
        match payment {
            Some(payment) if payment.status == Status::Refunded => Self::Refunded(payment.into()),
            Some(payment) if payment.status == Status::Voided => Self::Voided(payment.into()),
            _ => Self::Nothing,
        }
    }
}

/// The database is this service's own affair: to a neighbour it means that it could not be asked.
impl From<db::Error> for PaymentError {
    fn from(error: db::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<OutboxError> for PaymentError {
    fn from(error: OutboxError) -> Self {
        match error {
            OutboxError::Store(error) => error.into(),
            OutboxError::Publish(PublishError::Fault(fault)) => Self::Fault(fault),
            OutboxError::Publish(error) => internal(format_args!("publish: {error:?}")),
        }
    }
}

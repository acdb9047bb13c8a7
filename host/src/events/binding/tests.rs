use super::{HANDLE, HANDLER, WitEvent, WitVerdict, add_to_linker, wit};
use crate::{
    events::{
        Bus, BusConfig, BusKind, DeliveryPolicy, Event, InvalidEvent, MAX_DATA, NewEvent, Publisher, Subscription,
        Verdict,
        testing::{acknowledging, gated},
    },
    policy::Deadline,
    service::CallContext,
    telemetry::TraceContext,
};
use tokio::time::{Duration, Instant};
use wasmtime::{
    Engine, Store, StoreContextMut,
    component::{Component, Linker},
};

struct State {
    publisher: Publisher,
    call: CallContext,
}

/// A bus with a subscription to `order.confirmed`, and the store of a service that may publish it.
async fn store(engine: &Engine, subscription: Subscription) -> (Bus, Store<State>) {
    let policy = DeliveryPolicy { concurrency: 1, capacity: 1, ..DeliveryPolicy::default() };
    let publishes = [("order".to_owned(), vec!["order.confirmed".to_owned()])].into();
    let config = BusConfig {
        app: "shop".into(),
        kind: BusKind::Embedded(crate::events::EmbeddedConfig::scratch()),
        publishes,
        retention: crate::events::Retention::default(),
    };
    let bus = Bus::start(config, vec![subscription.with_policy(policy)]).await.unwrap();
    let deadline = Deadline { at: Instant::now() + Duration::from_secs(5), of: "test".into() };
    let call = CallContext { caller: "events".into(), deadline, trace: TraceContext::root(), unit: None };
    let store = Store::new(engine, State { publisher: bus.publisher("order"), call });
    (bus, store)
}

fn event(subject: &str, data: Vec<u8>) -> Event {
    let new = NewEvent { subject: Some(subject.into()), ..NewEvent::json("order.created", data) };
    Event::publish(new, "order.created".into(), "/services/order".into(), Some(TraceContext::root()))
}

/// Hands an event to a fresh instance of the component and returns what it says.
async fn handle(store: &mut Store<State>, event: &Event, attempt: u32) -> Verdict {
    let engine = store.engine().clone();
    let component = Component::new(&engine, wat::parse_str(include_str!("echo.wat")).unwrap()).unwrap();
    let mut linker = Linker::new(&engine);
    let current = |store: StoreContextMut<'_, State>| Some(store.data().call.clone());
    add_to_linker(&mut linker, |state: &mut State| state.publisher.clone(), current).unwrap();
    let instance = linker.instantiate_async(&mut *store, &component).await.unwrap();
    let handler = component.get_export_index(None, HANDLER).unwrap();
    let handle = component.get_export_index(Some(&handler), HANDLE).unwrap();
    let handle = instance.get_typed_func::<(WitEvent,), (WitVerdict,)>(&mut *store, handle).unwrap();
    let event = WitEvent::from((event, attempt));
    let (verdict,) =
        store.run_concurrent(async |accessor| handle.call_concurrent(accessor, (event,)).await).await.unwrap().unwrap();
    verdict.into()
}

#[tokio::test]
async fn a_component_handles_an_event_and_publishes_one() {
    let engine = Engine::default();
    let (subscriber, mut log) = acknowledging();
    let (_bus, mut store) = store(&engine, Subscription::new("order.confirmed", "audit", subscriber)).await;
    let received = event("order.confirmed", vec![b'x'; MAX_DATA]);
    assert_eq!(handle(&mut store, &received, 1).await, Verdict::Ack);
    let published = log.next().await.event;
    assert_eq!(published.data, received.data);
    assert_eq!(published.subject.as_deref(), Some(&*received.id));
    assert_eq!(&*published.source, "/services/order");
    assert_eq!(published.traceparent, Some(store.data().call.trace));
}

#[tokio::test]
async fn a_component_learns_why_its_event_was_not_published() {
    let engine = Engine::default();
    let (subscriber, _log, _gate) = gated();
    let (bus, mut store) = store(&engine, Subscription::new("order.confirmed", "audit", subscriber)).await;
    let Verdict::Reject(reason) = handle(&mut store, &event("user.created", vec![]), 1).await else {
        panic!("published what was not granted")
    };
    assert!(reason.contains("order may not publish user.created"), "{reason}");
    assert_eq!(handle(&mut store, &event("order.confirmed", vec![]), 1).await, Verdict::Ack);
    // The bus takes no more: a fault, which the component answers by asking for another try.
    bus.shutdown(Duration::ZERO).await;
    assert_eq!(handle(&mut store, &event("order.confirmed", vec![]), 2).await, Verdict::Retry(None));
}

#[test]
fn a_component_says_when_its_event_is_due() {
    let due = |text: &str| {
        let event = wit::NewEvent {
            topic: "order.confirmed".into(),
            subject: None,
            datacontenttype: None,
            data: b"{}".to_vec(),
            due: Some(text.into()),
        };
        NewEvent::try_from(event).map(|event| event.due)
    };
    assert_eq!(due("2027-01-31T09:00:00.5+01:00"), Ok(Some("2027-01-31T08:00:00.5Z".parse().unwrap())));
    assert_eq!(due("in an hour"), Err(InvalidEvent::DueTime("in an hour".into())));
}

//! The host dies at each write: the one before a call, and the one after it.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// A service whose effects outlive the host, and which remembers keys. Of one call the host does not hear any more.
#[derive(Clone, Default)]
struct World {
    /// How often each action was done, or would have been without its key.
    effects: Arc<Mutex<BTreeMap<String, u32>>>,
    undone: Arc<Mutex<BTreeSet<String>>>,
    fails: Option<&'static str>,
    /// Which call it is that does not come back, counted from 1 over all hosts, and whether it has had its effect.
    dies: (usize, bool),
    calls: watch::Sender<usize>,
}

impl World {
    fn call(&self, call: StepCall, act: bool) -> BoxFuture<'_, Result<Outcome, Fault>> {
        self.calls.send_modify(|calls| *calls += 1);
        let dies = *self.calls.borrow() == self.dies.0;
        async move {
            let fails = act && self.fails == Some(&*call.step);
            if !fails && (!dies || self.dies.1) {
                if act {
                    *self.effects.lock().unwrap().entry(call.step.clone()).or_default() += 1;
                } else {
                    self.undone.lock().unwrap().insert(call.step.clone());
                }
            }
            if dies {
                std::future::pending::<()>().await;
            }
            if fails {
                return Ok(Outcome::Failed("no".into()));
            }
            let side = if act { "did" } else { "undid" };
            Ok(Outcome::Done(format!("{{\"{side}-{}\":true}}", call.step).into()))
        }
        .boxed()
    }
}

impl Steps for World {
    fn act(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>> {
        self.call(call, true)
    }

    fn compensate(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>> {
        self.call(call, false)
    }
}

on_each_backend! {
    wherever_the_host_dies_it_ends_completed_or_compensated,
}

async fn wherever_the_host_dies_it_ends_completed_or_compensated(scratch: Scratch) {
    let database = database(&scratch).await;
    let once = Step { repeatable: false, ..step("c") };
    let definitions = [saga("pay", [step("a"), step("b"), Step { beside: true, ..step("x") }, once, step("d")])];
    let (mut number, mut compensated) = (0, 0);
    for fails in [None, Some("d")] {
        for (dies, had_effect) in (1..=9).flat_map(|dies| [(dies, false), (dies, true)]) {
            number += 1;
            let id = number.to_string();
            let world = World { fails, dies: (dies, had_effect), ..World::default() };
            let open = async || {
                Sagas::open("order", database.clone(), definitions.to_vec(), Arc::new(world.clone()), settings())
                    .await
                    .unwrap()
            };
            let sagas = open().await;
            sagas.start("pay", &id, b"{}").await.unwrap();
            let mut calls = world.calls.subscribe();
            // It ends, or is killed in the call.
            tokio::select! {
                died = calls.wait_for(|calls| *calls >= dies) => drop(died.unwrap()),
                end = sagas.wait("pay", &id, Duration::from_secs(30)) => assert!(end.unwrap().status.has_ended()),
            }
            drop(sagas);
            let sagas = open().await;
            let end = ended(&sagas, "pay", &id).await;
            sagas.close(soon()).await;
            let (effects, undone) = (world.effects.lock().unwrap().clone(), world.undone.lock().unwrap().clone());
            let context = format!("{fails:?} {dies} {had_effect}: {end:?} {effects:?} {undone:?}");
            assert!(effects.get("c").is_none_or(|count| *count == 1), "{context}");
            match end.status {
                Status::Completed => {
                    assert!(fails.is_none() && effects.len() == 5 && undone.is_empty(), "{context}");
                }
                Status::Compensated => {
                    compensated += 1;
                    assert!(effects.keys().all(|step| undone.contains(step)), "{context}");
                }
                status => panic!("{status}: {context}"),
            }
        }
    }
    assert!((18..36).contains(&compensated), "{compensated}");
}

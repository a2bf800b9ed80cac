use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Ended, Executor, Schedule, Stuck};
use crate::sim::rng::Ppm;
use crate::types::Mono;

const SECOND: Duration = Duration::from_secs(1);

/// A small world of chatter: pairs of tasks on two machines that send numbers and sleep.
fn chatter(seed: u64, schedule: Schedule) -> (u64, u64, Vec<u32>) {
    let mut executor = Executor::new(seed, schedule);
    let world = executor.world();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    for n in 0..4 {
        let machine = world.add_machine();
        let (_, env) = world.start(machine);
        let order = Arc::clone(&order);
        let inner = env.clone();
        env.spawn("chatter", async move {
            for round in 0..20 {
                inner.sleep(Duration::from_millis(inner.random_below("pace", 3))).await;
                order.lock().unwrap().push(n * 100 + round);
            }
        });
    }
    executor.run_for(SECOND).unwrap();
    let order = order.lock().unwrap().clone();
    (executor.trace_hash(), executor.events(), order)
}

#[test]
fn one_seed_is_one_run_and_another_seed_another() {
    for schedule in [Schedule::Uniform, Schedule::Priorities] {
        assert_eq!(chatter(1, schedule), chatter(1, schedule));
        assert_ne!(chatter(1, schedule).2, chatter(2, schedule).2);
    }
}

#[test]
fn tasks_that_are_ready_together_run_in_every_order() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut executor = Executor::new(seed, Schedule::Uniform);
        let world = executor.world();
        let (_, env) = world.start(world.add_machine());
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        for n in 0..3 {
            let order = Arc::clone(&order);
            env.spawn("racer", async move { order.lock().unwrap().push(n) });
        }
        executor.run_for(SECOND).unwrap();
        orders.insert(order.lock().unwrap().clone());
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn an_hour_of_sleep_takes_no_time_and_the_clock_shows_it() {
    let mut executor = Executor::new(1, Schedule::Uniform);
    let world = executor.world();
    let machine = world.add_machine();
    let (_, env) = world.start(machine);
    let before = env.wall();
    let sleeper = env.clone();
    let slept = executor
        .block_on(machine, 2 * 3600 * SECOND, async move {
            sleeper.sleep(3600 * SECOND).await;
            sleeper.mono()
        })
        .unwrap();
    assert_eq!(slept, Some(Mono(3_600_000_000_000)));
    assert_eq!(env.wall().0 - before.0, 3_600_000_000);
}

#[test]
fn timers_follow_the_drift_of_their_machine_even_when_it_changes_midway() {
    let mut executor = Executor::new(1, Schedule::Uniform);
    let world = executor.world();
    let machine = world.add_machine();
    let inside = world.clone();
    world.call_after(SECOND, move |world| world.set_drift(machine, -200_000));
    let (_, env) = world.start(machine);
    let woke_at = executor
        .block_on(machine, 100 * SECOND, async move {
            env.sleep(2 * SECOND).await;
            inside.now()
        })
        .unwrap();
    // One second at full speed, the second one at four fifths of it.
    assert_eq!(woke_at, Some(2_250_000_000));
}

#[test]
fn killing_a_group_ends_its_tasks_timers_and_blocking_work_and_nothing_else() {
    let mut executor = Executor::new(3, Schedule::Uniform);
    let world = executor.world();
    let (a, b) = (world.add_machine(), world.add_machine());
    let (doomed, doomed_env) = world.start(a);
    let (_, other_env) = world.start(b);
    world.set_blocking(a, SECOND, SECOND, (Ppm::NEVER, Duration::ZERO));
    let ticks = |env: &crate::env::Env| {
        let count = Arc::new(AtomicU32::new(0));
        let (inner, seen) = (env.clone(), Arc::clone(&count));
        env.spawn("ticker", async move {
            loop {
                inner.sleep(Duration::from_millis(100)).await;
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        count
    };
    let (killed, living) = (ticks(&doomed_env), ticks(&other_env));
    let worked = Arc::new(AtomicU32::new(0));
    let (env, work) = (doomed_env.clone(), Arc::clone(&worked));
    doomed_env.spawn("worker", async move {
        let _ = env.blocking("work", move || work.fetch_add(1, Ordering::Relaxed)).await;
    });
    executor.run_for(Duration::from_millis(550)).unwrap();
    world.kill(doomed);
    doomed_env.spawn("late", async { panic!("a dead node starts nothing") });
    executor.run_for(Duration::from_secs(5)).unwrap();
    assert_eq!(killed.load(Ordering::Relaxed), 5);
    assert_eq!(worked.load(Ordering::Relaxed), 0);
    assert_eq!(living.load(Ordering::Relaxed), 55);
    assert!(world.take_panics().is_empty());
}

#[test]
fn destructors_of_killed_tasks_may_use_the_world() {
    struct Farewell(crate::env::Env, mpsc::UnboundedSender<()>);
    impl Drop for Farewell {
        fn drop(&mut self) {
            drop(self.0.sleep(SECOND));
            self.0.spawn("ghost", async {});
            let _ = self.1.send(());
        }
    }
    let mut executor = Executor::new(3, Schedule::Uniform);
    let world = executor.world();
    let (group, env) = world.start(world.add_machine());
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let farewell = Farewell(env.clone(), sender);
    env.spawn("holder", async move {
        let _held = farewell;
        std::future::pending::<()>().await;
    });
    executor.run_for(SECOND).unwrap();
    world.kill(group);
    assert!(receiver.try_recv().is_ok());
}

#[test]
fn a_paused_group_stands_still_and_then_catches_up() {
    let mut executor = Executor::new(3, Schedule::Uniform);
    let world = executor.world();
    let machine = world.add_machine();
    let (group, env) = world.start(machine);
    let woke = Arc::new(AtomicU64::new(0));
    let (inner, seen, inside) = (env.clone(), Arc::clone(&woke), world.clone());
    env.spawn("sleeper", async move {
        inner.sleep(SECOND).await;
        seen.store(inside.now(), Ordering::Relaxed);
    });
    executor.run_for(SECOND / 2).unwrap();
    world.pause(group, true);
    executor.run_for(10 * SECOND).unwrap();
    assert_eq!(woke.load(Ordering::Relaxed), 0);
    world.pause(group, false);
    executor.run_for(SECOND).unwrap();
    assert_eq!(woke.load(Ordering::Relaxed), 10_500_000_000);
}

#[test]
fn a_livelock_is_reported_with_the_names_of_its_tasks() {
    let mut executor = Executor::new(1, Schedule::Uniform);
    let world = executor.world();
    let (_, env) = world.start(world.add_machine());
    env.spawn("spinner", async {
        loop {
            let mut yielded = false;
            std::future::poll_fn(|context| {
                if std::mem::replace(&mut yielded, true) {
                    return std::task::Poll::Ready(());
                }
                context.waker().wake_by_ref();
                std::task::Poll::Pending
            })
            .await;
        }
    });
    let stuck = executor.run_for(SECOND).unwrap_err();
    assert_eq!(stuck, Stuck::Livelock { at_ns: 0, tasks: vec!["spinner"] });
}

#[test]
fn a_world_with_nothing_to_come_is_idle() {
    let mut executor = Executor::new(1, Schedule::Uniform);
    let world = executor.world();
    let (_, env) = world.start(world.add_machine());
    env.spawn("waiter", std::future::pending());
    assert_eq!(executor.run_while(SECOND, |_| true), Ok(Ended::Idle));
}

#[test]
fn a_panicking_task_ends_its_node_and_is_kept_as_a_finding() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut executor = Executor::new(1, Schedule::Uniform);
    let world = executor.world();
    let (group, env) = world.start(world.add_machine());
    env.spawn("clumsy", async { panic!("dropped the {}", "stone") });
    executor.run_for(SECOND).unwrap();
    std::panic::set_hook(hook);
    assert!(!world.is_alive(group));
    let panics = world.take_panics();
    assert_eq!((panics[0].task, panics[0].message.as_str()), ("clumsy", "dropped the stone"));
}

#[test]
fn timeouts_drop_what_they_cut_off() {
    let mut executor = Executor::new(1, Schedule::Uniform);
    let world = executor.world();
    let machine = world.add_machine();
    let (_, env) = world.start(machine);
    let result = executor
        .block_on(machine, 10 * SECOND, async move {
            env.timeout(SECOND, std::future::pending::<()>()).await
        })
        .unwrap();
    assert_eq!(result, Some(Err(crate::env::Elapsed)));
}

/// Not a test of speed (nothing is asserted): prints wake-ups per second for who asks with
/// `--ignored --nocapture`.
#[test]
#[ignore = "prints a rate"]
#[allow(clippy::disallowed_methods, reason = "measures the real rate")]
fn rate_of_wakeups() {
    let mut executor = Executor::new(1, Schedule::Uniform);
    let world = executor.world();
    let (_, env) = world.start(world.add_machine());
    for _ in 0..4 {
        let (to_pong, mut pings) = mpsc::channel::<u32>(4);
        let (to_ping, mut pongs) = mpsc::channel::<u32>(4);
        let inner = env.clone();
        env.spawn("ping", async move {
            for n in 0..500_000 {
                if n % 1_000 == 0 {
                    inner.sleep(Duration::from_nanos(1)).await;
                }
                let _ = to_pong.send(n).await;
                let _ = pongs.recv().await;
            }
        });
        env.spawn("pong", async move {
            while let Some(n) = pings.recv().await {
                let _ = to_ping.send(n).await;
            }
        });
    }
    let begun = std::time::Instant::now();
    executor.run_for(SECOND).unwrap();
    let took = begun.elapsed();
    let rate = executor.polls() as f64 / took.as_secs_f64();
    println!("{} polls in {took:?}: {rate:.0} a second", executor.polls());
}

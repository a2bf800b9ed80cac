//! Stories of the metadata log: founding, appending, crashing, being wiped.

mod town;

use std::time::Duration;

use crate::cluster::founding::Hindrance;
use crate::cluster::wire::{MetaRequest, MetaResponse};
use crate::cluster::{AppendError, MustRestart};
use crate::gossip::Liveness;
use crate::meta::{Command, NotDone, Verdict};
use crate::sim::disk::PowerLoss;
use crate::storage::{CommitterOptions, Durability, Engine as _, keys};
use crate::types::{ActorId, Ballot, Epoch};

use town::{Town, Weather, create, id};

const ABC: [&str; 3] = ["a", "b", "c"];

#[test]
fn founders_found_one_cluster_in_any_weather() {
    for seed in 0..25 {
        let mut town = Town::new(seed, &ABC);
        town.weather(Weather::BAD);
        for name in ABC {
            town.start(name);
        }
        town.until(120, |town| ABC.iter().all(|name| town.epoch(name) >= 1));
        town.check_logs();
        let ids: Vec<_> = ABC.iter().map(|n| town.cluster(n).state().cluster_id()).collect();
        assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "seed {seed}");
        for name in ABC {
            let cluster = town.cluster(name);
            assert!(cluster.may_serve(&cluster.state()), "seed {seed}: {name} is on record");
        }
    }
}

#[test]
fn one_node_founds_a_cluster_by_itself() {
    let mut town = Town::founded(1, &["a"]);
    assert!(matches!(town.append("a", create("t")), Ok(Verdict::Created(_))));
    town.crash("a", PowerLoss::Subset);
    town.start("a");
    town.until(10, |town| {
        let cluster = town.cluster("a");
        cluster.may_serve(&cluster.state())
    });
    assert!(town.cluster("a").state().table_named(&"t".parse().unwrap()).is_some());
}

#[test]
fn nothing_is_founded_while_one_founder_is_missing() {
    let mut town = Town::new(2, &ABC);
    town.start("a");
    town.start("b");
    town.run_ms(20_000);
    assert_eq!((town.epoch("a"), town.epoch("b")), (0, 0));
    town.start("c");
    town.until(30, |town| ABC.iter().all(|name| town.epoch(name) >= 1));
}

/// Rule 20: two lists, two clusters, unless every listed node has to agree.
#[test]
fn founders_with_differing_lists_found_nothing() {
    let mut town = Town::new(3, &["a", "b", "c", "d"]);
    for name in ["a", "b"] {
        town.site(name).founders = vec!["a".into(), "b".into()];
    }
    for name in ["c", "d"] {
        town.site(name).founders = vec!["b".into(), "c".into(), "d".into()];
    }
    town.site("b").founders = vec!["a".into(), "b".into(), "c".into()];
    for name in ["a", "b", "c", "d"] {
        town.start(name);
    }
    town.run_ms(20_000);
    for name in town.names() {
        assert_eq!(town.epoch(&name), 0, "{name}");
    }
}

#[test]
fn a_node_that_lists_other_founders_never_joins() {
    let mut town = Town::new(4, &["a", "b", "c", "d"]);
    for name in ABC {
        town.site(name).founders = ABC.map(str::to_owned).to_vec();
        town.start(name);
    }
    town.until(30, |town| ABC.iter().all(|name| town.epoch(name) >= 1));
    town.start("d");
    town.run_ms(10_000);
    assert_eq!(town.epoch("d"), 0);
    assert!(!town.cluster("d").state().is_founded());
}

#[test]
fn a_founder_that_is_wiped_before_the_founding_does_not_split_it() {
    for seed in 0..20 {
        let mut town = Town::new(seed, &ABC);
        for name in ABC {
            town.start(name);
        }
        let moment = town.rng.below(120);
        town.run_ms(moment);
        town.wipe("b");
        town.start("b");
        town.run_ms(15_000);
        town.check_logs();
        // Either it was founded, and then by all, or they say that they cannot.
        let founded: Vec<bool> = ABC.iter().map(|name| town.epoch(name) >= 1).collect();
        assert!(founded.iter().all(|f| *f == founded[0]), "seed {seed}: {founded:?}");
    }
}

#[test]
fn a_crash_of_any_founder_at_any_moment_does_not_stop_the_founding() {
    for seed in 0..25 {
        let mut town = Town::new(seed, &ABC);
        for name in ABC {
            town.start(name);
        }
        for _ in 0..4 {
            let (moment, who) = (town.rng.below(60), *town.rng.pick(&ABC));
            town.run_ms(moment);
            town.crash(who, PowerLoss::Subset);
            town.start(who);
        }
        town.until(60, |town| ABC.iter().all(|name| town.epoch(name) >= 1));
        town.check_logs();
    }
}

/// What a founder says to its operator when another was wiped after all had confirmed.
#[test]
fn a_founding_that_a_wiped_founder_blocks_says_so_and_how_to_go_on() {
    let mut town = Town::new(30, &ABC);
    for name in ["a", "b"] {
        town.start(name);
    }
    town.run_ms(500);
    // As if c had confirmed too, and been wiped before anybody proposed.
    for name in ["a", "b"] {
        let cluster = town.cluster(name);
        let machine = town.site(name).machine;
        let confirm = async move {
            cluster.store.save_founding(7).await.unwrap();
            cluster.log().founding = Some(7);
        };
        town.executor.block_on(machine, Duration::from_secs(5), confirm).unwrap().unwrap();
    }
    town.start("c");
    town.run_ms(10_000);
    assert_eq!(ABC.map(|name| town.epoch(name)), [0, 0, 0]);
    for name in ABC {
        let (cluster, machine) = (town.cluster(name), town.site(name).machine);
        let found = async move { cluster.found().await };
        let found = town.executor.block_on(machine, Duration::from_secs(20), found);
        let why = found.unwrap().unwrap().unwrap_err();
        assert!(matches!(why, Hindrance::Wrong(_)), "{why:?}");
        let why = why.to_string();
        assert!(why.contains("node.data_dir") && why.contains("of each"), "{why}");
    }
}

/// CASSANDRA-10699, -8387, -6038, -5202.
#[test]
fn two_nodes_that_create_one_table_at_once_get_one_table() {
    for seed in 0..25 {
        let mut town = Town::founded(seed, &ABC);
        town.weather(Weather::BAD);
        let slots = ["a", "b"].map(|name| town.begin(name, create("cart"), 30));
        town.until(60, |_| slots.iter().all(|slot| slot.lock().unwrap().is_some()));
        let [one, other] = slots.map(|slot| slot.lock().unwrap().take().unwrap().unwrap());
        let id = match (&one, &other) {
            (Verdict::Created(id), Verdict::NotDone(NotDone::TableExists { id: found, same }))
            | (Verdict::NotDone(NotDone::TableExists { id: found, same }), Verdict::Created(id)) => {
                assert_eq!((id, same), (found, &true), "seed {seed}");
                *id
            }
            other => panic!("seed {seed}: {other:?}"),
        };
        town.weather(Weather::FINE);
        town.until(20, |town| ABC.iter().all(|name| town.epoch(name) >= u64::from(id.0)));
        for name in ABC {
            let state = town.cluster(name).state();
            assert_eq!(state.table_named(&"cart".parse().unwrap()).unwrap().id, id);
        }
        town.check_logs();
    }
}

#[test]
fn when_an_append_returns_every_live_node_knows_it() {
    let mut town = Town::founded(5, &ABC);
    town.run_ms(2_000);
    let Ok(Verdict::Created(table)) = town.append("c", create("t")) else { panic!("not created") };
    for name in ABC {
        assert!(town.cluster(name).state().table(table).is_some(), "{name}");
    }
}

/// CASSANDRA-21222: the answer to a metadata commit is lost.
#[test]
fn a_command_whose_answers_are_lost_takes_effect_once() {
    for seed in 0..15 {
        let mut town = Town::founded(seed, &ABC);
        town.weather(Weather { lose_answer: 600_000, ..Weather::FINE });
        let slot = town.begin("a", create("t"), 60);
        town.until(90, |_| slot.lock().unwrap().is_some());
        assert!(
            matches!(*slot.lock().unwrap(), Some(Ok(Verdict::Created(_)))),
            "seed {seed}: not refused because of its own first copy"
        );
        let cluster = town.cluster("a");
        let copies = cluster
            .log()
            .entries
            .iter()
            .filter(|entry| matches!(entry.command, Command::CreateTable { .. }))
            .count();
        assert_eq!(copies, 1, "seed {seed}");
    }
}

#[test]
fn a_minority_changes_nothing_and_says_that_it_did_not() {
    let mut town = Town::founded(6, &ABC);
    town.isolate("a");
    let refused = town.append("a", create("lonely"));
    assert_eq!(refused, Err(AppendError::Unavailable { members: 3 }));
    assert!(matches!(town.append("b", create("t")), Ok(Verdict::Created(_))));
    town.heal();
    town.until(10, |town| town.epoch("a") == town.epoch("b"));
    town.run_ms(5_000);
    for name in ABC {
        let state = town.cluster(name).state();
        assert!(state.table_named(&"lonely".parse().unwrap()).is_none(), "{name}");
    }
}

#[test]
fn a_node_that_was_away_catches_up_before_the_deadline_or_says_no() {
    let mut town = Town::founded(7, &ABC);
    town.isolate("c");
    for table in ["t1", "t2", "t3"] {
        assert!(matches!(town.append("a", create(table)), Ok(Verdict::Created(_))));
    }
    let target = Epoch(town.epoch("a"));
    let catch_up = |town: &mut Town, ms: u64| {
        let cluster = town.cluster("c");
        let deadline = cluster.env.mono() + Duration::from_millis(ms);
        let machine = town.site("c").machine;
        let wait = async move { cluster.catch_up(target, deadline).await };
        town.executor.block_on(machine, Duration::from_secs(30), wait).unwrap().unwrap()
    };
    assert!(!catch_up(&mut town, 300));
    town.heal();
    assert!(catch_up(&mut town, 5_000));
    assert_eq!(town.epoch("c"), target.0);
}

/// Rule 20, MC5: a wiped acceptor helps to choose a second value where it had helped to choose
/// the first, unless its vote waits for an entry that names its new actor.
#[test]
fn the_vote_of_a_wiped_member_does_not_count_until_an_entry_names_it() {
    let mut town = Town::founded(8, &ABC);
    town.crash("c", PowerLoss::Subset);
    town.wipe("b");
    town.start("b");
    town.run_ms(10_000);
    // a and the wiped b are two of three, and yet no majority.
    let refused = town.append("a", create("t"));
    assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "{refused:?}");
    let state = town.cluster("a").state();
    assert_ne!(state.member(id("b")).unwrap().actor, ActorId(town.site("b").actor));

    town.start("c");
    let actor = ActorId(town.site("b").actor);
    town.until(30, |town| {
        town.cluster("a").state().member(id("b")).is_some_and(|member| member.actor == actor)
    });
    assert!(!town.cluster("a").state().is_filled(id("b"), actor), "its data is another matter");
    // Named, it votes: a and b suffice now.
    town.until(10, |town| town.epoch("b") == town.epoch("a"));
    town.crash("c", PowerLoss::Subset);
    let done = town.append("a", create("t"));
    assert!(matches!(done, Ok(Verdict::Created(_))), "{done:?}");
    town.check_logs();
}

/// Rule 17: an older copy of a whole directory is consistent in itself; its incarnation gives it
/// away.
#[test]
fn a_restored_older_copy_finds_its_start_used_and_must_come_back_as_a_new_actor() {
    let mut town = Town::founded(9, &ABC);
    town.run_ms(1_000);
    let (image, starts) = (town.site("a").disk.image(), town.site("a").starts.clone());
    town.crash("a", PowerLoss::Subset);
    town.start("a");
    let serves = |town: &Town| {
        let cluster = town.cluster("a");
        cluster.may_serve(&cluster.state())
    };
    town.until(20, serves);

    town.crash("a", PowerLoss::Subset);
    town.site("a").disk.restore(&image);
    town.site("a").starts = starts;
    // Started again and again, whether on record or not, it does not come to pass for a newer one.
    for _ in 0..3 {
        town.start("a");
        town.run_ms(1);
        town.crash("a", PowerLoss::LoseAll);
    }
    town.start("a");
    // Its acceptor is that of the past: with b alone it is no majority.
    town.crash("c", PowerLoss::Subset);
    let refused = town.append("b", create("t"));
    assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "{refused:?}");
    town.start("c");
    town.until(20, |town| {
        matches!(*town.cluster("a").must_restart().borrow(), Some(MustRestart::OlderCopy(_)))
    });
    assert!(!serves(&town));

    town.crash("a", PowerLoss::Subset);
    town.new_history("a");
    town.start("a");
    let fresh = ActorId(town.site("a").actor);
    town.until(20, |town| {
        town.cluster("b").state().member(id("a")).is_some_and(|m| m.actor == fresh)
    });
    town.check_logs();
}

/// Invariants I7 and I9, with power losses in the midst of it, and clocks that go back.
#[test]
fn crashes_and_clocks_that_go_back_never_fork_the_log_nor_lose_what_was_answered() {
    for seed in 0..25 {
        let mut town = Town::founded(seed, &ABC);
        town.weather(Weather::BAD);
        let mut answered = Vec::new();
        for round in 0..6 {
            let pending: Vec<_> = town
                .running()
                .iter()
                .map(|name| {
                    let table = format!("t{round}_{name}");
                    (table.clone(), town.begin(name, create(&table), 5))
                })
                .collect();
            let moment = town.rng.below(400);
            town.run_ms(moment);
            let victim = *town.rng.pick(&ABC);
            let policy = *town.rng.pick(&[PowerLoss::LoseAll, PowerLoss::Subset, PowerLoss::Torn]);
            town.crash(victim, policy);
            let (machine, back) = (town.site(victim).machine, town.rng.below(10_000_000));
            town.world.jump_wall(machine, -(back as i64));
            town.run_ms(300);
            town.start(victim);
            town.run_ms(3_000);
            for (table, slot) in pending {
                if matches!(*slot.lock().unwrap(), Some(Ok(Verdict::Created(_)))) {
                    answered.push(table);
                }
            }
            town.check_logs();
        }
        town.weather(Weather::FINE);
        town.until(60, |town| {
            let epochs: Vec<u64> = ABC.iter().map(|name| town.epoch(name)).collect();
            epochs.iter().all(|epoch| *epoch == epochs[0])
                && ABC.iter().all(|name| {
                    let cluster = town.cluster(name);
                    cluster.may_serve(&cluster.state())
                })
        });
        town.check_logs();
        assert!(!answered.is_empty(), "seed {seed}: nothing was answered, nothing was tested");
        let state = town.cluster("a").state();
        for table in &answered {
            assert!(state.table_named(&table.parse().unwrap()).is_some(), "seed {seed}: {table}");
        }
    }
}

/// Law L9 holds whatever `storage.durability` says.
#[test]
fn a_promise_is_on_disk_when_it_is_answered_even_with_periodic_syncs() {
    let mut town = Town::new(10, &ABC);
    let durability = Durability::Periodic { interval: Duration::from_secs(3600) };
    town.site("a").commit = CommitterOptions { durability, ..CommitterOptions::default() };
    for name in ABC {
        town.start(name);
    }
    town.until(30, |town| ABC.iter().all(|name| town.epoch(name) >= 1));
    town.run_ms(5_000);

    let (cluster, machine) = (town.cluster("a"), town.site("a").machine);
    let index = cluster.state().epoch().0 + 1;
    let ballot = Ballot { time: 1 << 60, actor: ActorId(7) };
    let request = MetaRequest::Prepare { index, founding: 0, ballot };
    let answer = async move { cluster.handle_meta(id("b"), request.encode().into()).await };
    let answer = town.executor.block_on(machine, Duration::from_secs(5), answer).unwrap();
    let Some(crate::net::Response::Meta(bytes)) = answer else { panic!("no answer") };
    assert!(matches!(MetaResponse::decode(&bytes), Ok(MetaResponse::Promise { .. })));

    let engine = town.site("a").engine.clone().unwrap();
    let key = keys::meta_row(2, index);
    assert!(engine.get(&key).unwrap().is_some());
    assert!(engine.durable(&key).unwrap().is_some(), "answered before it was durable");
}

#[test]
fn members_are_shown_with_liveness_and_epoch() {
    let mut town = Town::founded(11, &ABC);
    town.run_ms(3_000);
    let shown = town.cluster("a").members();
    assert_eq!(shown.len(), 3);
    let epoch = Some(Epoch(town.epoch("a")));
    assert!(shown.iter().all(|m| m.liveness == Liveness::Live && m.epoch == epoch));
    town.crash("c", PowerLoss::Subset);
    town.until(20, |town| town.cluster("a").liveness(id("c")) == Liveness::Dead);
    assert!(!town.cluster("a").is_live(id("c")));
    town.start("c");
    town.until(20, |town| town.cluster("a").liveness(id("c")) == Liveness::Live);
}

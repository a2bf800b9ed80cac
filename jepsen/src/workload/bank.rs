//! Transfers between the accounts of a bank, each in two conditional steps that may be done again:
//! an account lists the transfers that it has taken part in, so that a step which is repeated (by
//! its client after a lost answer, or by whoever cleans up) finds itself done.
//!
//! `transfer` asks for `{"id", "from", "to", "amount"}`; `look` asks for an account and learns it;
//! `final` learns all accounts after every open transfer was driven to its end. A failed transfer
//! took no money.

use std::collections::BTreeMap;

use henge::client::{Call, Client, Reply};
use hyper::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::{History, Op, Outcome};
use crate::session::{Effect, Session};

use super::{keys_of, register::swapped, shown};

/// Accounts of a bank.
const ACCOUNTS: u64 = 3;

/// What each begins with.
const BEGINS_WITH: i64 = 100;

/// How often a step is tried anew, after others came first or no answer came.
const TRIES: usize = 12;

/// An account as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    balance: i64,
    /// Transfers, and what each changed.
    seen: Vec<(String, i64)>,
}

impl Account {
    fn new() -> Self {
        Self { balance: BEGINS_WITH, seen: Vec::new() }
    }

    fn has(&self, id: &str) -> bool {
        self.seen.iter().any(|(seen, _)| seen == id)
    }
}

/// What was asked of a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    id: String,
    from: u64,
    to: u64,
    amount: i64,
}

/// How a step on one account ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Done,
    /// There is not enough on the account.
    Short,
    /// It certainly did not happen.
    Not,
    /// Nobody knows.
    Open,
}

fn account_key(bank: &str, account: u64) -> String {
    format!("{bank}.{account}")
}

pub async fn step(session: &mut Session) {
    let bank = session.key();
    if session.rng.below(10) < 4 {
        let account = session.rng.below(ACCOUNTS);
        let target = session.stage.path(&account_key(&bank, account));
        let call = Call::new(Method::GET, target);
        let asked = ("look", &*bank, json!(account));
        session.attempt(asked, call, Effect::Reads, account_shown).await;
        return;
    }
    let from = session.rng.below(ACCOUNTS);
    let to = (from + 1 + session.rng.below(ACCOUNTS - 1)) % ACCOUNTS;
    let amount = session.rng.between(1, 60).cast_signed();
    let transfer = Transfer { id: session.value(), from, to, amount };
    let recorder = &session.stage.recorder;
    let number = recorder.begin(session.process, session.node, "transfer", &bank, json!(transfer));
    let (outcome, learnt) = match change(session, &bank, from, &transfer.id, -amount).await {
        Step::Short => (Outcome::Fail, "not enough"),
        Step::Not => (Outcome::Fail, "not begun"),
        Step::Open => (Outcome::Info, "debit open"),
        Step::Done => match change(session, &bank, to, &transfer.id, amount).await {
            Step::Done => (Outcome::Ok, "done"),
            Step::Short | Step::Not | Step::Open => (Outcome::Info, "credit open"),
        },
    };
    session.stage.recorder.end(number, outcome, json!(learnt));
    // That money is short is no sign of trouble with the node.
    let short = learnt == "not enough";
    session.after(if short { Outcome::Ok } else { outcome }).await;
}

fn account_shown(reply: &Reply) -> Option<Value> {
    match shown(reply)? {
        Value::Null => Some(json!(Account::new())),
        value => serde_json::from_str(value.as_str()?).ok(),
    }
}

/// Adds `delta` to an account under the name of transfer `id`, once.
async fn change(session: &mut Session, bank: &str, account: u64, id: &str, delta: i64) -> Step {
    let target = session.stage.path(&account_key(bank, account));
    let mut otherwise = Step::Not;
    for _ in 0..TRIES {
        let call = Call::new(Method::GET, &target);
        let read = session.send(call, Effect::Reads, account_shown).await;
        let Ok(mut stood) = serde_json::from_value::<Account>(read.learnt.clone()) else {
            session.move_on();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        if stood.has(id) {
            return Step::Done;
        }
        // A serial read has settled what was open before it.
        otherwise = Step::Not;
        if stood.balance + delta < 0 {
            return Step::Short;
        }
        stood.balance += delta;
        stood.seen.push((id.to_owned(), delta));
        let op = Client::new_op_id().to_string();
        let call = Call::new(Method::PUT, &target).body(json!(stood).to_string());
        let call = match read.header("etag") {
            Some(etag) if read.reply.as_ref().is_some_and(|reply| reply.status == 200) => {
                call.header("if-match", &etag)
            }
            _ => call.header("if-none-match", "*"),
        };
        let Ok(call) = call.and_then(|call| call.header("idempotency-key", &op)) else {
            return otherwise;
        };
        // A lost answer is asked for again, through another node, under the same id.
        for _ in 0..2 {
            let wrote = session.send(call.clone(), Effect::Writes, swapped).await;
            match wrote.outcome {
                Outcome::Ok if wrote.learnt == true => return Step::Done,
                Outcome::Info => {
                    otherwise = Step::Open;
                    session.move_on();
                }
                Outcome::Ok | Outcome::Fail => break,
            }
        }
    }
    otherwise
}

pub async fn finish(session: &mut Session) -> bool {
    let history = session.stage.recorder.history();
    let mut all = true;
    for bank in keys_of(&session.stage) {
        let transfers = history.ops.iter().filter(|op| op.key == bank && op.f == "transfer");
        for op in transfers.filter(|op| op.outcome != Outcome::Fail) {
            let Ok(it) = serde_json::from_value::<Transfer>(op.asked.clone()) else { continue };
            let debit = change(session, &bank, it.from, &it.id, -it.amount).await;
            if debit == Step::Done {
                all &= change(session, &bank, it.to, &it.id, it.amount).await == Step::Done;
            }
            all &= matches!(debit, Step::Done | Step::Short);
        }
        let number = session.stage.recorder.begin(
            session.process,
            session.node,
            "final",
            &bank,
            Value::Null,
        );
        let mut accounts = Vec::new();
        for account in 0..ACCOUNTS {
            let target = session.stage.path(&account_key(&bank, account));
            for _ in 0..20 {
                let call = Call::new(Method::GET, &target);
                let read = session.send(call, Effect::Reads, account_shown).await;
                if read.is_ok() {
                    accounts.push(read.learnt);
                    break;
                }
                session.move_on();
            }
        }
        let complete = accounts.len() == ACCOUNTS as usize;
        all &= complete;
        let outcome = if complete { Outcome::Ok } else { Outcome::Fail };
        session.stage.recorder.end(number, outcome, json!(accounts));
    }
    all
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        for &look in ops.iter().filter(|op| op.f == "look" && op.is_ok()) {
            let Ok(account) = serde_json::from_value::<Account>(look.learnt.clone()) else {
                judgement.breach(key, "an account that nobody wrote", &[look]);
                continue;
            };
            sound(key, look, &account, &mut judgement);
        }
        let Some(&last) = ops.iter().rfind(|op| op.f == "final" && op.is_ok()) else { continue };
        let Ok(accounts) = serde_json::from_value::<Vec<Account>>(last.learnt.clone()) else {
            judgement.breach(key, "an account that nobody wrote", &[last]);
            continue;
        };
        for account in &accounts {
            sound(key, last, account, &mut judgement);
        }
        let total: i64 = accounts.iter().map(|account| account.balance).sum();
        let began = BEGINS_WITH * ACCOUNTS.cast_signed();
        if total != began {
            judgement.breach(key, format!("the bank holds {total}, not {began}"), &[last]);
        }
        for &op in ops.iter().filter(|op| op.f == "transfer") {
            let Ok(it) = serde_json::from_value::<Transfer>(op.asked.clone()) else { continue };
            let times = |account: u64| {
                let seen = accounts.get(account as usize).map(|account| &account.seen);
                seen.map_or(0, |seen| seen.iter().filter(|(id, _)| *id == it.id).count())
            };
            match (op.outcome, times(it.from), times(it.to)) {
                (Outcome::Ok, 1, 1) | (Outcome::Fail, 0, 0) => {}
                (Outcome::Info, 0, 0) | (Outcome::Info, 1, 1) => {}
                (_, from, to) => {
                    let what = format!("a transfer was taken {from} times and given {to} times");
                    judgement.breach(key, what, &[op, last]);
                }
            }
        }
    }
    judgement
}

/// An account is never overdrawn, and is the sum of its transfers, each once.
fn sound(key: &str, op: &Op, account: &Account, judgement: &mut Judgement) {
    let sum: i64 = account.seen.iter().map(|(_, delta)| delta).sum();
    let distinct: BTreeMap<&str, i64> =
        account.seen.iter().map(|(id, delta)| (id.as_str(), *delta)).collect();
    if account.balance < 0 {
        judgement.breach(key, "an account is overdrawn", &[op]);
    }
    if account.balance != BEGINS_WITH + sum || distinct.len() != account.seen.len() {
        judgement.breach(key, "an account is not the sum of its transfers", &[op]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::told;

    fn history(accounts: &str) -> History {
        told(&format!(
            r#"
            1 transfer 0 1 {{"id":"a","from":0,"to":1,"amount":5}} ok "done"
            2 transfer 2 3 {{"id":"b","from":1,"to":2,"amount":7}} fail "not enough"
            3 transfer 4 - {{"id":"c","from":2,"to":0,"amount":9}} info null
            1 final 6 7 null ok {accounts}
        "#
        ))
    }

    const A: &str = r#"{"balance":95,"seen":[["a",-5]]}"#;
    const B: &str = r#"{"balance":105,"seen":[["a",5]]}"#;
    const C: &str = r#"{"balance":100,"seen":[]}"#;

    #[test]
    fn transfers_that_happen_once_pass() {
        assert_eq!(judge(&history(&format!("[{A},{B},{C}]"))).breaches, []);
    }

    #[test]
    fn each_breach_is_named() {
        let twice = r#"{"balance":110,"seen":[["a",5],["a",5]]}"#;
        let failed = r#"{"balance":93,"seen":[["b",-7]]}"#;
        let over = r#"{"balance":-1,"seen":[["a",-101]]}"#;
        for (accounts, name) in [
            (format!("[{A},{C},{C}]"), "a transfer was taken 1 times and given 0 times"),
            (format!("[{A},{C},{C}]"), "the bank holds 295, not 300"),
            (format!("[{A},{twice},{C}]"), "an account is not the sum of its transfers"),
            (format!("[{C},{failed},{C}]"), "a transfer was taken 1 times and given 0 times"),
            (format!("[{over},{B},{C}]"), "an account is overdrawn"),
        ] {
            let breaches = judge(&history(&accounts)).breaches;
            assert!(breaches.iter().any(|breach| breach.what == name), "{accounts}: {breaches:?}");
        }
    }
}

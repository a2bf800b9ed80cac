//! Connections from a caller to a callee: the handshake, frames under way, and breaks.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::link::{Delivery, InFlight};
use super::{SimNet, State};
use crate::env::Env;
use crate::net::codec::{self, DEFAULT_MAX_PAYLOAD_BYTES};
use crate::net::handshake::judge;
use crate::net::{CallError, Header, Request};
use crate::sim::trace::TraceKind;
use crate::types::NodeId;

/// How long a caller waits for a handshake.
const CONNECT_TIMEOUT: u64 = 1_000_000_000;
/// Shortest and longest pause after a failed handshake.
const BACKOFF: (u64, u64) = (50_000_000, 1_000_000_000);

#[derive(Debug)]
pub(super) enum Link {
    /// A handshake is under way; these streams wait for it.
    Connecting(Vec<u64>),
    /// With this life of the callee.
    Up(u64),
    /// Not tried again before then.
    Down { until: u64 },
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) link: Link,
    backoff: u64,
    /// When the last frame of each direction arrives: there, then back.
    arrivals: [u64; 2],
}

fn unreachable(why: &str) -> CallError {
    CallError::NotSent { why: why.to_owned(), unreachable: true }
}

impl SimNet {
    /// Takes a call's frame: sends it, lets it wait for the handshake, or refuses.
    pub(super) fn enqueue(
        &self,
        caller: NodeId,
        callee: NodeId,
        stream: u64,
        frame: Bytes,
    ) -> Result<(), CallError> {
        let now = self.world.now();
        let mut state = self.state();
        let backoff = match state.sessions.get_mut(&(caller, callee)) {
            Some(Session { link: Link::Connecting(waiting), .. }) => {
                waiting.push(stream);
                state.keep_frame(caller, stream, frame);
                return Ok(());
            }
            Some(Session { link: Link::Up(life), id, .. }) => {
                let (session, receiver_life) = (*id, *life);
                let sent = InFlight { session, receiver_life, is_request: true, frame };
                self.put_on_link(&mut state, caller, callee, sent);
                return Ok(());
            }
            Some(Session { link: Link::Down { until }, .. }) if now < *until => {
                return Err(unreachable("no connection"));
            }
            Some(session) => session.backoff,
            None => BACKOFF.0,
        };
        let id = state.number();
        let link = Link::Connecting(vec![stream]);
        let session = Session { id, link, backoff, arrivals: [now; 2] };
        state.sessions.insert((caller, callee), session);
        state.keep_frame(caller, stream, frame);
        self.connect(&mut state, caller, callee, id);
        Ok(())
    }

    fn connect(&self, state: &mut State, caller: NodeId, callee: NodeId, id: u64) {
        let now = self.world.now();
        let net = self.clone();
        self.world.call_at(now + CONNECT_TIMEOUT, None, move |_| {
            net.connected(caller, callee, id, Err("the peer does not answer".to_owned()));
        });
        if let Some(at) = self.arrival(state, caller, callee) {
            let net = self.clone();
            self.world.call_at(at, None, move |_| net.knock(caller, callee, id));
        }
    }

    /// When a message of no session, sent now, arrives; `None` if it does not.
    fn arrival(&self, state: &mut State, from: NodeId, to: NodeId) -> Option<u64> {
        let now = self.world.now();
        let mut rng = state.rng.clone();
        let link = state.link(from, to);
        let latency = link.profile.latency(&mut rng);
        let lost = link.blocks > 0 || rng.chance(link.profile.loss);
        link.hits += u64::from(link.blocks > 0);
        let at = (now + latency).max(link.clogged_until);
        state.rng = rng;
        (!lost).then_some(at)
    }

    /// The caller's hello reaches the callee.
    fn knock(&self, caller: NodeId, callee: NodeId, id: u64) {
        let (theirs, ours) = {
            let state = self.state();
            let open = state.sessions.get(&(caller, callee)).is_some_and(|s| s.id == id);
            let Some(from) = state.ports.get(&caller).filter(|_| open) else { return };
            let theirs = from.admission.hello();
            let port = state.ports.get(&callee).filter(|port| port.service.is_some());
            // A process that stands still accepts, in its kernel, and says nothing.
            if port.is_some_and(|port| self.world.is_paused(port.group)) {
                return;
            }
            (theirs, port.map(|port| (port.admission.clone(), port.life)))
        };
        let verdict = match ours {
            None => Err("connection refused".to_owned()),
            Some((admission, life)) => judge(&admission.hello(), &theirs)
                .and_then(|_| admission.admit(&theirs))
                .map(|()| life)
                .inspect_err(|_| self.state().stats.refused += 1),
        };
        let at = self.arrival(&mut self.state(), callee, caller);
        if let Some(at) = at {
            let net = self.clone();
            self.world.call_at(at, None, move |_| net.connected(caller, callee, id, verdict));
        }
    }

    /// A handshake has ended, on the caller's side.
    fn connected(&self, caller: NodeId, callee: NodeId, id: u64, verdict: Result<u64, String>) {
        let admissions = {
            let state = self.state();
            let waits = state.sessions.get(&(caller, callee)).is_some_and(|session| {
                session.id == id && matches!(session.link, Link::Connecting(_))
            });
            let Some(ours) = state.ports.get(&caller).filter(|_| waits) else { return };
            // The callee's hello as of now: a moment later than it was said, and no less true.
            (ours.admission.clone(), state.ports.get(&callee).map(|port| port.admission.clone()))
        };
        let verdict = match (verdict, admissions) {
            (Ok(life), (ours, Some(theirs))) => {
                let hello = theirs.hello();
                let judged = judge(&ours.hello(), &hello).and_then(|_| ours.admit(&hello));
                judged.map(|()| life).inspect_err(|_| self.state().stats.refused += 1)
            }
            (Ok(_), (_, None)) => Err("the peer has just died".to_owned()),
            (Err(why), _) => Err(why),
        };
        let mut state = self.state();
        let now = self.world.now();
        let pause = state.rng.below(BACKOFF.0);
        let Some(session) = state.sessions.get_mut(&(caller, callee)) else { return };
        let Link::Connecting(waiting) = &mut session.link else { return };
        let waiting = std::mem::take(waiting);
        match verdict {
            Ok(life) => {
                session.link = Link::Up(life);
                session.backoff = BACKOFF.0;
                // The callee has learnt that the caller can be reached.
                if let Some(back) = state.sessions.get_mut(&(callee, caller))
                    && matches!(back.link, Link::Down { .. })
                {
                    back.link = Link::Down { until: now };
                    back.backoff = BACKOFF.0;
                }
                for stream in waiting {
                    if let Some(frame) = state.take_frame(caller, stream) {
                        let sent =
                            InFlight { session: id, receiver_life: life, is_request: true, frame };
                        self.put_on_link(&mut state, caller, callee, sent);
                    }
                }
            }
            Err(why) => {
                session.link = Link::Down { until: now + session.backoff / 2 + pause };
                session.backoff = (session.backoff * 2).min(BACKOFF.1);
                for stream in waiting {
                    state.finish(caller, stream, Err(unreachable(&why)));
                }
            }
        }
    }

    /// Hands a frame to a link, which decides over its fate.
    pub(super) fn put_on_link(&self, state: &mut State, from: NodeId, to: NodeId, sent: InFlight) {
        let now = self.world.now();
        state.stats.sent += 1;
        let machine = state.ports.get(&from).map(|port| port.machine);
        self.world.record(machine, TraceKind::Send, xxh3_64(&sent.frame));
        let mut rng = state.rng.clone();
        let delivery = state.delivery;
        let link = state.link(from, to);
        let (profile, clogged_until) = (link.profile, link.clogged_until);
        link.hits += u64::from(link.blocks > 0 || clogged_until > now);
        let blocked = link.blocks > 0;
        match delivery {
            Delivery::Stream if blocked => link.held.push(sent),
            Delivery::Stream => {
                let at = now + profile.stream_latency(&mut rng);
                let at = at.max(clogged_until);
                let cut = rng.chance(profile.cut);
                state.rng = rng;
                if cut {
                    return self.cut_at(state, from, to, &sent);
                }
                let at = state.in_order(from, to, &sent, at);
                self.deliver_at(at, from, to, sent);
                return;
            }
            Delivery::Datagram => {
                let full = profile.capacity > 0 && link.under_way >= profile.capacity;
                if blocked || full || rng.chance(profile.loss) {
                    state.stats.lost += 1;
                    self.world.record(machine, TraceKind::Lose, sent.session);
                } else {
                    link.under_way += 1;
                    let at = (now + profile.latency(&mut rng)).max(clogged_until);
                    if rng.chance(profile.duplicate) {
                        link.under_way += 1;
                        state.stats.duplicated += 1;
                        let late = at + rng.magnitude(1_000, profile.replay_max.max(1_001));
                        self.deliver_at(late, from, to, sent.clone());
                    }
                    self.deliver_at(at, from, to, sent);
                }
            }
        }
        state.rng = rng;
    }

    fn deliver_at(&self, at: u64, from: NodeId, to: NodeId, sent: InFlight) {
        let net = self.clone();
        self.world.call_at(at, None, move |_| net.deliver(from, to, sent));
    }

    /// The connection breaks with this frame on it.
    fn cut_at(&self, state: &mut State, from: NodeId, to: NodeId, sent: &InFlight) {
        let (caller, callee) = if sent.is_request { (from, to) } else { (to, from) };
        state.stats.lost += 1;
        self.reset_later(state, caller, callee, sent.session);
    }

    /// Lets the caller learn, after a way, that its connection is no more.
    pub(super) fn reset_later(&self, state: &mut State, caller: NodeId, callee: NodeId, id: u64) {
        if let Some(at) = self.arrival(state, callee, caller) {
            let net = self.clone();
            self.world.call_at(at, None, move |_| net.break_session(caller, callee, id));
        }
    }

    /// The caller's side of a connection ends: whatever was sent on it is lost.
    fn break_session(&self, caller: NodeId, callee: NodeId, id: u64) {
        let mut state = self.state();
        let now = self.world.now();
        let pause = state.rng.below(BACKOFF.0);
        let Some(session) = state.sessions.get_mut(&(caller, callee)) else { return };
        if session.id != id || !matches!(session.link, Link::Up(_)) {
            return;
        }
        session.link = Link::Down { until: now + pause };
        state.stats.cut += 1;
        state.lose_calls(caller, callee, "the connection broke");
    }

    /// A frame comes to the end of its way.
    fn deliver(&self, from: NodeId, to: NodeId, sent: InFlight) {
        let mut state = self.state();
        let (delivery, mut rng) = (state.delivery, state.rng.clone());
        let link = state.link(from, to);
        link.under_way = link.under_way.saturating_sub(1);
        if link.blocks > 0 {
            link.hits += 1;
            match delivery {
                Delivery::Stream => link.held.push(sent),
                Delivery::Datagram => state.stats.lost += 1,
            }
            return;
        }
        let corrupt = rng.chance(link.profile.corrupt);
        state.rng = rng;
        let (caller, callee) = if sent.is_request { (from, to) } else { (to, from) };
        let current = state.sessions.get(&(caller, callee)).is_some_and(|session| {
            session.id == sent.session && matches!(session.link, Link::Up(_))
        });
        let receiver = state.port(to, sent.receiver_life);
        let Some((env, machine)) = receiver.map(|port| (port.env.clone(), port.machine)) else {
            // Whoever answers there now knows nothing of this connection.
            state.stats.lost += 1;
            if sent.is_request && current && state.ports.contains_key(&to) {
                self.reset_later(&mut state, caller, callee, sent.session);
            }
            return;
        };
        if delivery == Delivery::Stream && !current {
            state.stats.lost += 1;
            return;
        }
        if corrupt {
            return self.deliver_corrupt(state, (from, to), &sent);
        }
        state.stats.delivered += 1;
        self.world.record(Some(machine), TraceKind::Deliver, xxh3_64(&sent.frame));
        if sent.is_request {
            drop(state);
            self.serve(&env, from, to, sent);
        } else if let Ok((stream, header, response)) =
            codec::decode_response(&sent.frame, DEFAULT_MAX_PAYLOAD_BYTES)
        {
            state.finish(to, stream, Ok((header, response)));
        }
    }

    /// Flips bits of a frame. The codec must refuse it; a stream is then closed.
    fn deliver_corrupt(
        &self,
        mut state: std::sync::MutexGuard<'_, State>,
        (from, to): (NodeId, NodeId),
        sent: &InFlight,
    ) {
        let mut bytes = sent.frame.to_vec();
        for _ in 0..state.rng.between(1, 3) {
            let at = state.rng.index(bytes.len());
            bytes[at] ^= 1 << state.rng.below(8);
        }
        let max = DEFAULT_MAX_PAYLOAD_BYTES;
        let taken = bytes != sent.frame
            && if sent.is_request {
                codec::decode_request(&bytes, max).is_ok()
            } else {
                codec::decode_response(&bytes, max).is_ok()
            };
        state.stats.corrupted += 1;
        state.stats.undetected += u64::from(taken);
        let (caller, callee) = if sent.is_request { (from, to) } else { (to, from) };
        if state.delivery == Delivery::Stream {
            self.reset_later(&mut state, caller, callee, sent.session);
        }
    }

    /// Lets the callee answer a request in a task of its own.
    fn serve(&self, env: &Env, from: NodeId, to: NodeId, sent: InFlight) {
        let Some(service) = self.state().ports.get(&to).and_then(|port| port.service.clone())
        else {
            return;
        };
        let decoded = codec::decode_request(&sent.frame, DEFAULT_MAX_PAYLOAD_BYTES);
        let Ok((stream, header, request)) = decoded else {
            return;
        };
        // A transport never sends a request twice, and a refused mint rests on that: the copy that
        // comes later would be carried out after its writer was told that it never will be. All
        // other requests may well come twice.
        if matches!(request, Request::Mint(_)) && !self.state().minted.insert(stream) {
            return;
        }
        let net = self.clone();
        env.spawn("serve peer", async move {
            let response = service.serve(from, header, request).await;
            let mut state = net.state();
            let Some(port) = state.port(to, sent.receiver_life) else { return };
            let header =
                Header { epoch: port.stamps.epoch(), hlc: port.stamps.clock.now(), budget_ms: 0 };
            let encoded =
                codec::encode_response(stream, &header, &response, DEFAULT_MAX_PAYLOAD_BYTES);
            let Some(caller_life) = state.ports.get(&from).map(|port| port.life) else { return };
            if let Ok(frame) = encoded {
                let answer = InFlight {
                    session: sent.session,
                    receiver_life: caller_life,
                    is_request: false,
                    frame,
                };
                net.put_on_link(&mut state, to, from, answer);
            }
        });
    }
}

impl State {
    /// The earliest time from `at` on that keeps a stream's order.
    fn in_order(&mut self, from: NodeId, to: NodeId, sent: &InFlight, at: u64) -> u64 {
        let (pair, way) = if sent.is_request { ((from, to), 0) } else { ((to, from), 1) };
        let Some(session) = self.sessions.get_mut(&pair).filter(|s| s.id == sent.session) else {
            return at;
        };
        let at = at.max(session.arrivals[way] + 1);
        session.arrivals[way] = at;
        at
    }
}

//! MC8: a lock, holders that are paused for any time, leases that end at any time, and a key that the
//! lock protects. What is granted is judged by the real code ([`henge::recipes`]), and the key's
//! fence is a real record's.

use henge::recipes::{Change, Holding, Request, State};
use henge::record::{Record, RecordKind};
use henge::types::{OpId, WallMicros};
use stateright::{Model, Property};

/// A model with its bounds.
#[derive(Clone, Debug)]
pub struct Lease {
    pub holders: usize,
    /// Grants of all together.
    pub grants: usize,
    /// Writes of each holder under one grant.
    pub writes: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Act {
    Acquire(usize),
    Renew(usize),
    Release(usize),
    /// The lease ends, by somebody's clock.
    Ends,
    Write(usize),
}

/// What a holder believes: it was the how-manieth to be granted the lock, under which number, and
/// has so many writes left.
type Belief = Option<(usize, u64, u8)>;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    fence: u64,
    /// Whose lease runs, by its number.
    held: Option<u64>,
    beliefs: Vec<Belief>,
    granted: Vec<u64>,
    /// The highest fence that the protected key has seen.
    protected: u64,
    /// Grants by whose writes the protected key was written, in order.
    writers: Vec<usize>,
}

fn holding(fence: u64) -> Holding {
    Holding { owner: fence.to_string(), fence, ttl_ms: 1, granted: OpId(0) }
}

impl World {
    fn state(&self) -> State {
        let held = self.held.map(|fence| (holding(fence), WallMicros(u64::MAX)));
        State { fence: self.fence, held }
    }

    /// Has `request` judged; the number under which the lock is held now, if it was granted.
    fn judge(&mut self, request: &Request) -> Option<u64> {
        match self.state().judge(request, OpId(0)).ok()? {
            Change::Held(holding) => {
                self.held = Some(holding.fence);
                let mut record = Record::empty(RecordKind::Siblings);
                record.raise_fence(self.fence);
                record.raise_fence(holding.fence);
                self.fence = record.fence();
                self.held
            }
            Change::Freed => {
                self.held = None;
                None
            }
        }
    }
}

impl Model for Lease {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            fence: 0,
            held: None,
            beliefs: vec![None; self.holders],
            granted: Vec::new(),
            protected: 0,
            writers: Vec::new(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Act>) {
        for (holder, belief) in world.beliefs.iter().enumerate() {
            match belief {
                Some((_, _, left)) => {
                    actions.extend([Act::Renew(holder), Act::Release(holder)]);
                    if *left > 0 {
                        actions.push(Act::Write(holder));
                    }
                }
                None if world.granted.len() < self.grants => actions.push(Act::Acquire(holder)),
                None => {}
            }
        }
        if world.held.is_some() {
            actions.push(Act::Ends);
        }
    }

    fn next_state(&self, last: &World, action: Act) -> Option<World> {
        let mut world = last.clone();
        match action {
            Act::Acquire(holder) => {
                let owner = holder.to_string();
                let fence = world.judge(&Request::Acquire { owner, ttl_ms: 1, stands: false })?;
                world.beliefs[holder] = Some((world.granted.len(), fence, self.writes));
                world.granted.push(fence);
            }
            Act::Renew(holder) => {
                let (_, fence, _) = world.beliefs[holder]?;
                if world.judge(&Request::Renew { fence, ttl_ms: 1 }).is_none() {
                    world.beliefs[holder] = None;
                }
            }
            Act::Release(holder) => {
                let (_, fence, _) = world.beliefs[holder].take()?;
                world.judge(&Request::Release { fence });
            }
            Act::Ends => world.held = None,
            Act::Write(holder) => {
                let (grant, fence, left) = world.beliefs[holder].as_mut()?;
                *left -= 1;
                if *fence >= world.protected {
                    world.protected = *fence;
                    world.writers.push(*grant);
                }
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("fences rise", |_, world: &World| {
                world.granted.is_sorted_by(|a, b| a < b)
            }),
            Property::always("who has lost the lock writes no more", |_, world: &World| {
                world.writers.is_sorted()
            }),
            Property::sometimes("two believe that they hold it", |_, world: &World| {
                world.beliefs.iter().flatten().count() > 1
            }),
            Property::sometimes("a late write is refused", |_, world: &World| {
                let late =
                    |belief: &Belief| belief.is_some_and(|(_, fence, _)| fence < world.protected);
                world.beliefs.iter().any(late)
            }),
        ]
    }
}

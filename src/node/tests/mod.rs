//! Stories of whole nodes: the rules of the design by their numbers, and the laws that the
//! replica and the coordinator keep between them.
//!
//! Told elsewhere: rule 5 (items of one batch run in order) by the HTTP door's tests; rule 16
//! (ballots carry the actor: a wiped member is another voter) and rule 20 (founding needs every
//! founder) by the stories in `cluster/tests`.

mod at_once;
mod batches;
mod causality;
mod damage;
mod disasters;
mod hints;
mod indexes;
mod listing;
mod locks;
mod lwt;
mod lwt_delays;
mod lwt_homes;
mod lwt_rows;
mod membership;
mod outcomes;
mod overload;
mod purge;
mod purge_rows;
mod routing;
mod sloppy;
mod town;
mod trees;
mod visibility;

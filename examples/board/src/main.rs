//! A departure board: what leaves an airport on a day, from the table that `examples/flights` fills.
//!
//! ```text
//! cargo run --manifest-path examples/board/Cargo.toml -- 127.0.0.1:9042 JFK 2013-07-04
//! ```
//!
//! One prepared statement, asked for page by page; the driver sends it to a node that has the rows.

use std::error::Error;

use futures_util::TryStreamExt as _;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::value::CqlTimestamp;

type Failure = Box<dyn Error + Send + Sync>;

const SELECT: &str = "SELECT time_hour, carrier, flight, dest, dep_delay FROM air.flights \
                      WHERE origin = ? AND year = ? AND month = ? AND day = ?";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, origin, day] = arguments.as_slice() else {
        return Err("usage: board HOST:PORT[,HOST:PORT...] AIRPORT YYYY-MM-DD".into());
    };
    let day: Vec<i32> = day.split('-').map(str::parse).collect::<Result<_, _>>()?;
    let [year, month, day] = day[..] else {
        return Err("a day is written YYYY-MM-DD".into());
    };
    let nodes: Vec<&str> = nodes.split(',').collect();
    let session = SessionBuilder::new().known_nodes(&nodes).build().await?;
    let mut select = session.prepare(SELECT).await?;
    select.set_consistency(Consistency::Quorum);
    let pages = session.execute_iter(select, (origin, year, month, day)).await?;
    let mut rows =
        pages.rows_stream::<(CqlTimestamp, String, i32, String, Option<i32>)>()?;
    let mut flights = 0;
    while let Some((hour, carrier, flight, dest, delay)) = rows.try_next().await? {
        let minutes = hour.0.div_euclid(60_000).rem_euclid(24 * 60);
        let delay = match delay {
            None => "cancelled".to_owned(),
            Some(minutes @ 1..) => format!("{minutes} min late"),
            Some(_) => "on time".to_owned(),
        };
        let (hours, minutes) = (minutes / 60, minutes % 60);
        println!("{hours:02}:{minutes:02} UTC  {carrier}{flight:<5} {dest}  {delay}");
        flights += 1;
    }
    println!("{flights} flights");
    Ok(())
}

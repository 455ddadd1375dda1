//! What comes goes again, whole.

use std::time::Duration;

use anyhow::Result;
use warren_tests::{
    eventually,
    leaks::{Snapshot, settled},
    scenario::OneNode,
};

const ROUNDS: u16 = 100;

#[test]
#[ignore = "needs root"]
fn a_hundred_services_leave_nothing() -> Result<()> {
    let site = OneNode::new()?;
    let round = |n: u16| -> Result<()> {
        // The same name each time; ports and number of replicas wander.
        let port = 8000 + n % 7;
        let replicas = (1 + n % 3).to_string();
        site.create("web", &["--replicas", &replicas, "-p", &format!("{port}:80")], &[])?;
        site.ask(port, "/")?;
        site.node.ok(&["service", "rm", "web"]).map(drop)
    };
    // What is made once (parents of control groups, say) is no leak.
    round(0)?;
    let before = settled(&site.node)?;
    for n in 1..=ROUNDS {
        round(n)?;
    }
    eventually("everything is gone", Duration::from_secs(20), || {
        before.no_more_than(&Snapshot::take(&site.node)?)
    })
}

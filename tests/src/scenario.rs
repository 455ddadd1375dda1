//! Where scenarios begin.

use anyhow::{Context, Result};

use crate::{Cluster, Host, Node, image::Image};

/// One node with an image, and a client and a server elsewhere on the network. In the order in
/// which they have to go: the node first.
#[derive(Debug)]
pub struct OneNode {
    /// The node, ready, with the image `web:1`.
    pub node: Node,
    /// Another host.
    pub client: Host,
    /// The switch between them.
    pub cluster: Cluster,
}

impl OneNode {
    /// Makes it.
    ///
    /// # Errors
    /// The node does not get ready.
    pub fn new() -> Result<Self> {
        let mut cluster = Cluster::new()?;
        let client = cluster.host("client")?;
        let node = Node::start(cluster.host("node")?)?;
        node.import(&Image::web("web:1"))?;
        Ok(Self { node, client, cluster })
    }

    /// A service of `web:1`: flags before the name, arguments after it.
    ///
    /// # Errors
    /// `warren service create` fails.
    pub fn create(&self, name: &str, flags: &[&str], args: &[&str]) -> Result<String> {
        let mut words = vec!["service", "create", "--image", "web:1"];
        words.extend(flags);
        words.push(name);
        words.extend(args);
        self.node.ok(&words)
    }

    /// Asks a published port from the client; the answer.
    ///
    /// # Errors
    /// No answer.
    pub fn ask(&self, port: u16, path: &str) -> Result<String> {
        self.client.curl(&format!("http://{}:{port}{path}", self.node.host.v4))
    }
}

/// The value of `name=` in an answer of `testbox http`.
///
/// # Errors
/// There is none.
pub fn field<'a>(answer: &'a str, name: &str) -> Result<&'a str> {
    answer
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix('='))
        .with_context(|| format!("no {name} in: {answer}"))
}

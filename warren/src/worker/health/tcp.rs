//! A TCP connection as a probe: it works when the connection stands.

use std::io;

use super::inside::Place;

/// Tries once, without a limit of time. The text is for people.
pub(super) async fn probe(place: &Place, port: u16) -> Result<String, String> {
    place.connect(port).await.map_err(|e| cannot_connect(place, port, &e))?;
    Ok(format!("connected to {}", place.address(port)))
}

/// The sentence for a connection that does not come about.
pub(super) fn cannot_connect(place: &Place, port: u16, e: &io::Error) -> String {
    let why = match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => e.to_string(),
    };
    format!("cannot connect to {}: {why}", place.address(port))
}

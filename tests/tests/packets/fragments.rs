//! Datagrams that are larger than any link takes, between real sockets.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use warren_ebpf::abi::UDP;

use crate::{
    live::{BOTH, Place, Site, WAIT, client, container, node, unspecified},
    testrun::{alone, ip},
};

/// Bytes of a datagram: three fragments, and many.
const SIZES: [usize; 3] = [1, 4000, 30_000];

/// Sends back what it gets, from a socket that is bound to one family.
fn echo(place: &Place, port: u16, v6: bool, times: usize) -> Result<()> {
    let socket = place.run(move || Ok(UdpSocket::bind((unspecified(v6), port))?))?;
    place.start(move || {
        let mut buffer = vec![0; 65_536];
        for _ in 0..times {
            let (length, from) = socket.recv_from(&mut buffer)?;
            socket.send_to(&buffer[..length], from)?;
        }
        Ok(())
    });
    Ok(())
}

fn converse(place: &Place, to: SocketAddr) -> Result<()> {
    place.run(move || {
        let socket = UdpSocket::bind((unspecified(to.is_ipv6()), 0))?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.connect(to)?;
        for bytes in SIZES {
            let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
            socket.send(&sent)?;
            let mut buffer = vec![0; 65_536];
            let length = socket.recv(&mut buffer).with_context(|| format!("{bytes} bytes to {to}"))?;
            ensure!(buffer[..length] == sent, "{length} of {bytes} bytes came back");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn large_datagrams_go_everywhere() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish_for(UDP, 5300, 53, 1)?;
        for v6 in BOTH {
            echo(&site.containers[0], 53, v6, 3 * SIZES.len())?;
            echo(&site.client, 54, v6, SIZES.len())?;
            converse(&site.client, (node(v6), 5300).into())?;
            converse(&site.containers[1], (node(v6), 5300).into())?;
            converse(&site.containers[1], (container(1, v6), 53).into())?;
            converse(&site.containers[0], (client(v6), 54).into())?;
        }
        Ok(())
    })
}

/// What a container may have cut up, it cuts up as small as the uplink wants once it knows.
#[test]
#[ignore = "needs root"]
fn large_datagrams_are_cut_up_for_a_small_uplink() -> Result<()> {
    alone(|| {
        let site = Site::new()?;
        ip("link set up0 mtu 1300")?;
        for v6 in BOTH {
            let server = site.client.run(move || Ok(UdpSocket::bind((client(v6), 53))?))?;
            server.set_read_timeout(Some(WAIT))?;
            site.containers[0].run(move || {
                let socket = UdpSocket::bind((unspecified(v6), 0))?;
                for n in [1, 2] {
                    socket.send_to(&[n; 4000], (client(v6), 53))?;
                }
                Ok(())
            })?;
            let mut buffer = [0; 5000];
            let (length, _) = server.recv_from(&mut buffer)?;
            ensure!((length, buffer[0]) == (4000, 2), "{length} bytes, the {}. datagram", buffer[0]);
        }
        Ok(())
    })
}

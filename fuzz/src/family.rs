//! The addresses of the world, and headers between them.

use etherparse::{IpHeaders, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader};
use warren_ebpf::{
    abi::{Backend, Words},
    packet::Family,
};

/// A family of addresses. Few of each kind, so that packets meet.
pub trait Side: Family {
    /// Length of an IP header without options.
    const IP_HEADER: usize;

    /// The address with these octets, 4 or 16.
    fn from_octets(octets: &[u8]) -> Self;

    /// An address of the node, on its first uplink.
    fn node() -> Self;

    /// Another one, on its second uplink.
    fn lan() -> Self;

    /// One of eight hosts outside; the upper four are behind the second uplink.
    fn client(n: u8) -> Self;

    /// Whether it is in the network of the first four clients, which one port was published for.
    fn friends() -> (Self, u32);

    /// A network that is behind the second uplink, with the upper clients.
    fn beyond() -> (Self, u32);

    /// A network that nothing can be sent to.
    fn nowhere() -> (Self, u32);

    /// Containers' addresses, all of them.
    fn pool() -> (Self, u32);

    /// The address of the container with backend id `id`; all zero if it has none of this family.
    fn container(id: u32) -> Self;

    /// A backend's row of which only the address is set.
    fn row(id: u32) -> Backend;

    /// A header between two addresses, with an option or extension where asked for.
    fn headers(source: Self, destination: Self, option: bool) -> IpHeaders;
}

impl Side for [u8; 4] {
    const IP_HEADER: usize = 20;

    fn from_octets(octets: &[u8]) -> Self {
        octets.try_into().expect("four octets")
    }

    fn node() -> Self {
        [192, 0, 2, 1]
    }

    fn lan() -> Self {
        [10, 9, 9, 1]
    }

    fn client(n: u8) -> Self {
        [198, 51, 100, (n & 4) << 5 | (n & 3)]
    }

    fn friends() -> (Self, u32) {
        ([198, 51, 100, 0], 25)
    }

    fn beyond() -> (Self, u32) {
        ([198, 51, 100, 128], 25)
    }

    fn nowhere() -> (Self, u32) {
        ([203, 0, 113, 0], 24)
    }

    fn pool() -> (Self, u32) {
        ([10, 64, 0, 0], 16)
    }

    fn container(id: u32) -> Self {
        [10, 64, 0, 10 + id as u8]
    }

    fn row(id: u32) -> Backend {
        Backend { address: Self::container(id), ..Backend::default() }
    }

    fn headers(source: Self, destination: Self, option: bool) -> IpHeaders {
        let mut ip = Ipv4Header::new(0, 64, 0.into(), source, destination).expect("it is short");
        if option {
            // Three that mean nothing, and the end.
            ip.options = Ipv4Options::try_from(&[1, 1, 1, 0][..]).expect("they are short");
        }
        IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default())
    }
}

/// An address that differs from others in more than its last word.
fn v6(net: u16, host: u8) -> [u8; 16] {
    let [a, b] = net.to_be_bytes();
    [0x20, 0x01, 0x0d, 0xb8, a, b, 0, 0, 0, 0, 0xfe, 0xff, 0, 0, 0, host]
}

/// Implements [`Side`] for one way to see an IPv6 address.
macro_rules! side6 {
    ($address:ty) => {
        impl Side for $address {
            const IP_HEADER: usize = 40;

            fn from_octets(octets: &[u8]) -> Self {
                <[u8; 16]>::try_from(octets).expect("sixteen octets").into()
            }

            fn node() -> Self {
                v6(2, 1).into()
            }

            fn lan() -> Self {
                v6(9, 1).into()
            }

            fn client(n: u8) -> Self {
                v6(100 + u16::from(n & 4), n & 3).into()
            }

            fn friends() -> (Self, u32) {
                (v6(100, 0).into(), 64)
            }

            fn beyond() -> (Self, u32) {
                (v6(104, 0).into(), 64)
            }

            fn nowhere() -> (Self, u32) {
                (v6(113, 0).into(), 64)
            }

            fn pool() -> (Self, u32) {
                (v6(64, 0).into(), 64)
            }

            fn container(id: u32) -> Self {
                if id == 3 { [0; 16] } else { v6(64, 10 + id as u8) }.into()
            }

            fn row(id: u32) -> Backend {
                Backend { address6: Self::container(id).into(), ..Backend::default() }
            }

            fn headers(source: Self, destination: Self, option: bool) -> IpHeaders {
                let (source, destination) = (source.into(), destination.into());
                let ip = Ipv6Header { hop_limit: 64, source, destination, ..Default::default() };
                let mut extensions = Ipv6Extensions::default();
                if option {
                    // Padding.
                    let padding = Ipv6RawExtHeader::new_raw(0.into(), &[1, 4, 0, 0, 0, 0]);
                    extensions.destination_options = Some(padding.expect("it is long enough"));
                }
                IpHeaders::Ipv6(ip, extensions)
            }
        }
    };
}

side6!([u8; 16]);
side6!(Words);

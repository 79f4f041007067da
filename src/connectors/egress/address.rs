//! Why: what an address is, decided by number and not by spelling. Never resolves and never decides who may go there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// Anybody's, on the Internet.
    Public,
    /// This machine.
    Loopback,
    /// A site's own: RFC 1918, shared address space (RFC 6598), unique local.
    Private,
    /// Translated to another address on its way: NAT64, 6to4, Teredo, IPv4-compatible and the like.
    Translated,
    /// Set aside: benchmarks, documentation, protocol assignments, future use, deprecated site-local.
    Reserved,
    /// Everybody, or no one.
    MulticastOrUnspecified,
    /// The neighbours on the wire, among them the metadata service of most clouds.
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
}

impl AddressClass {
    /// The class of `address`.
    pub fn of(address: IpAddr) -> Self {
        match canonical(address) {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// Whether no setting can open it.
    pub const fn is_never(self) -> bool {
        matches!(self, Self::MulticastOrUnspecified | Self::LinkLocal | Self::Metadata)
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Translated => "translated",
            Self::Reserved => "reserved",
            Self::MulticastOrUnspecified => "multicast, broadcast and unspecified",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata service",
        })
    }
}

/// An IPv4 address written as IPv4-mapped IPv6 is that IPv4 address, to the operating system as well.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether `net` has `address`; a net written IPv4-mapped has the IPv4 addresses it means.
pub(super) fn net_contains(net: &IpNet, address: IpAddr) -> bool {
    let meant = match net {
        IpNet::V6(six) if six.prefix_len() >= 96 => {
            six.addr().to_ipv4_mapped().and_then(|four| Ipv4Net::new(four, six.prefix_len() - 96).ok()).map_or(*net, IpNet::V4)
        }
        _ => *net,
    };
    meant.contains(&address)
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// First match wins; what is in none of them is public.
const V4: [(Ipv4Net, AddressClass); 21] = [
    (v4(169, 254, 0, 0, 16), AddressClass::LinkLocal),
    // Metadata services that do not live on the link: Alibaba Cloud, Azure's wire server, Oracle Cloud.
    (v4(100, 100, 100, 200, 32), AddressClass::Metadata),
    (v4(168, 63, 129, 16, 32), AddressClass::Metadata),
    (v4(192, 0, 0, 192, 32), AddressClass::Metadata),
    (v4(0, 0, 0, 0, 8), AddressClass::MulticastOrUnspecified),
    (v4(224, 0, 0, 0, 4), AddressClass::MulticastOrUnspecified),
    (v4(255, 255, 255, 255, 32), AddressClass::MulticastOrUnspecified),
    (v4(127, 0, 0, 0, 8), AddressClass::Loopback),
    (v4(10, 0, 0, 0, 8), AddressClass::Private),
    (v4(172, 16, 0, 0, 12), AddressClass::Private),
    (v4(192, 168, 0, 0, 16), AddressClass::Private),
    (v4(100, 64, 0, 0, 10), AddressClass::Private),
    (v4(192, 0, 0, 0, 24), AddressClass::Reserved),
    (v4(192, 0, 2, 0, 24), AddressClass::Reserved),
    (v4(192, 31, 196, 0, 24), AddressClass::Reserved),
    (v4(192, 52, 193, 0, 24), AddressClass::Reserved),
    (v4(192, 88, 99, 0, 24), AddressClass::Reserved),
    (v4(198, 18, 0, 0, 15), AddressClass::Reserved),
    (v4(198, 51, 100, 0, 24), AddressClass::Reserved),
    (v4(203, 0, 113, 0, 24), AddressClass::Reserved),
    (v4(240, 0, 0, 0, 4), AddressClass::Reserved),
];

/// First match wins; what is in none of them is public inside 2000::/3 and reserved outside.
const V6: [(Ipv6Net, AddressClass); 21] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), AddressClass::MulticastOrUnspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), AddressClass::Loopback),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), AddressClass::Translated),
    (v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), AddressClass::Translated),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), AddressClass::Translated),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), AddressClass::Translated),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), AddressClass::Reserved),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), AddressClass::Translated),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), AddressClass::Reserved),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), AddressClass::Reserved),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), AddressClass::Translated),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), AddressClass::Reserved),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), AddressClass::Reserved),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), AddressClass::Reserved),
    // Amazon's and Google's metadata services, which use unique local addresses.
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), AddressClass::Metadata),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0], 32), AddressClass::Metadata),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), AddressClass::Private),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), AddressClass::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), AddressClass::Reserved),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), AddressClass::MulticastOrUnspecified),
    (v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3), AddressClass::Public),
];

fn of_v4(address: Ipv4Addr) -> AddressClass {
    V4.iter().find(|(net, _)| net.contains(&address)).map_or(AddressClass::Public, |(_, class)| *class)
}

fn of_v6(address: Ipv6Addr) -> AddressClass {
    // An interface id that carries an IPv4 address (ISATAP) is a tunnel under any prefix.
    let [_, _, _, _, four, five, ..] = address.segments();
    if five == 0x5efe && (four == 0 || four == 0x200) && V6[20].0.contains(&address) {
        return AddressClass::Translated;
    }
    V6.iter().find(|(net, _)| net.contains(&address)).map_or(AddressClass::Reserved, |(_, class)| *class)
}

/// The IPv4 addresses that `address` carries inside, in every layout that some translator uses.
pub(super) fn embedded(address: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return Vec::new() };
    let octets = address.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    let last = at([12, 13, 14, 15]);
    match address.segments() {
        // Unspecified and loopback are themselves, not carriers of 0.0.0.0 and 0.0.0.1.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        [0, 0, 0, 0, 0 | 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![last],
        // Local-use NAT64 puts it by the length of the operator's prefix (RFC 6052): /48, /56, /64 or /96.
        [0x64, 0xff9b, 1, ..] => vec![at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), last],
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // Teredo: the server, and the client's address with every bit turned.
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), Ipv4Addr::from(!u32::from(last))],
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![last],
        _ => Vec::new(),
    }
}

//! Each guard of the packet filter, out in turn.

use anyhow::{Result, ensure};
use surplus_tests::network::guests::Setup;

use crate::scene::{Place, attack};

/// A guard, what of the filter is to be replaced by what to take it out, and what
/// then comes where.
struct Guard {
    what: &'static str,
    out: &'static [(&'static str, &'static str)],
    comes: &'static [&'static str],
    to: Place,
}

const GUARDS: &[Guard] = &[
    Guard {
        what: "the sender's MAC address",
        out: &[("\t\tiifname . ether saddr != @seats drop\n", "")],
        comes: &["mac-of-another-guest", "mac-of-nobody"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP, IPv4 and IPv6 alone, untagged",
        out: &[("goto speak_ip6 }\n\t\tdrop\n", "goto speak_ip6 }\n")],
        comes: &["vlan", "vlan-in-vlan", "stp", "pvst", "no-such-protocol"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP for Ethernet",
        out: &[("\t\tarp htype != 1 drop\n", "")],
        comes: &["arp-of-another-hardware"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP for IPv4",
        out: &[("\t\tarp ptype != ip drop\n", "")],
        comes: &["arp-of-another-protocol"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP's questions and answers alone",
        out: &[("\t\tarp operation != { request, reply } drop\n", "")],
        comes: &["arp-reverse-request", "arp-inverse-request"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP with the sender's MAC address",
        out: &[("\t\tiifname . arp saddr ether != @seats drop\n", "")],
        comes: &["arp-reply-with-another-mac"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP with the sender's IPv4 address",
        out: &[(
            "\t\tiifname . arp saddr ip @addresses accept\n",
            "\t\taccept\n",
        )],
        comes: &[
            "arp-reply-as-another-guest",
            "arp-announcement-as-another-guest",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP's question for the own address alone",
        out: &[(
            " arp operation request iifname . arp daddr ip @addresses accept",
            " accept",
        )],
        comes: &["arp-probe-for-another-guest", "arp-reply-as-nobody"],
        to: Place::Bridge,
    },
    Guard {
        what: "the sender's IPv4 address",
        out: &[("\t\tiifname . ip saddr @addresses accept\n", "\t\taccept\n")],
        comes: &[
            "ipv4-of-another-guest",
            "fragment-of-another-guest",
            "dhcp-offer-as-the-host",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "DHCP for the own address alone",
        out: &[("\t\tudp dport 67 iifname . @th,288,48 != @cards drop\n", "")],
        comes: &[
            "dhcp-request-as-another-guest",
            "dhcp-renewal-as-another-guest",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "what is for the host comes whole",
        out: &[(
            " ip frag-off & 0x3fff != 0 drop",
            " ip frag-off & 0x3fff == 0x3fff drop",
        )],
        comes: &["pieces"],
        to: Place::Bridge,
    },
    Guard {
        what: "what the bridge floods is for whom it is for",
        out: &[("\t\toifname \"sg*\" goto hear\n", "")],
        comes: &[
            "flooded-unicast",
            "flooded-arp-request",
            "flooded-router-advertisement",
        ],
        to: Place::Victim,
    },
    Guard {
        what: "the sender's IPv6 address",
        out: &[("\t\tiifname . ip6 saddr != @addresses6 drop\n", "")],
        comes: &[
            "ipv6-of-another-guest",
            "ipv6-of-the-host",
            "nd-solicitation-as-another-guest",
            "nd-advertisement-from-another-guest",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "the address that is for more than its cable",
        out: &[(
            " ip6 saddr fdc9:50a5:3ed9::/64 ip6 daddr != ff00::/8 accept",
            " ip6 daddr != ff00::/8 accept",
        )],
        comes: &["ipv6-of-the-cable"],
        to: Place::Bridge,
    },
    Guard {
        what: "no groups of IPv6",
        out: &[(
            " ip6 saddr fdc9:50a5:3ed9::/64 ip6 daddr != ff00::/8 accept",
            " ip6 saddr fdc9:50a5:3ed9::/64 accept",
        )],
        comes: &["to-a-group-6", "to-everybody-6"],
        to: Place::Bridge,
    },
    Guard {
        what: "no headers between, no fragments",
        out: &[("ip6 nexthdr { tcp, udp } ip6 saddr", "ip6 saddr")],
        comes: &[
            "hop-by-hop-6",
            "destination-options-6",
            "source-routed-6",
            "fragment-6",
            "later-fragment-6",
            "whole-fragment-6",
            "ipv6-in-ipv6",
            "ipv4-in-ipv6",
            "no-such-header-6",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "no header hides what a message is",
        out: &[(
            "\t\tip6 nexthdr icmpv6 goto speak_icmp6\n",
            "\t\tmeta l4proto icmpv6 accept\n",
        )],
        comes: &[
            "router-advertisement-behind-options",
            "router-advertisement-behind-hops",
            "router-advertisement-in-a-fragment",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "messages from an address for more than its cable",
        out: &[("\t\tip6 saddr != fdc9:50a5:3ed9::/64 drop\n", "")],
        comes: &["ping-by-cable"],
        to: Place::Bridge,
    },
    Guard {
        what: "no messages to groups",
        out: &[("\t\tip6 daddr ff00::/8 drop\n", "")],
        comes: &["ping-to-everybody-6"],
        to: Place::Bridge,
    },
    Guard {
        what: "no messages about networks",
        out: &[(
            "\t\ticmpv6 type {\n\t\t\techo-request, echo-reply,\n\t\t\tdestination-unreachable, \
             packet-too-big, time-exceeded, parameter-problem\n\t\t} accept\n",
            "\t\taccept\n",
        )],
        comes: &[
            "router-advertisement-to-the-host",
            "nd-redirect",
            "mld-report-of-version-2",
            "router-renumbering",
            "node-information",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "questions from the cable alone",
        out: &[(
            "chain ask_neighbour {\n\t\tip6 hoplimit != 255 drop\n",
            "chain ask_neighbour {\n",
        )],
        comes: &["nd-solicitation-from-afar"],
        to: Place::Bridge,
    },
    Guard {
        what: "questions of the one code",
        out: &[(
            "\t\ticmpv6 code != 0 drop\n\t\ticmpv6 taddr",
            "\t\ticmpv6 taddr",
        )],
        comes: &["nd-solicitation-of-another-code"],
        to: Place::Bridge,
    },
    Guard {
        what: "questions for the host alone",
        out: &[(
            "\t\ticmpv6 taddr != { fe80::1, fdc9:50a5:3ed9::1 } drop\n",
            "",
        )],
        comes: &["nd-solicitation-for-another-guest"],
        to: Place::Bridge,
    },
    Guard {
        what: "questions to the host alone",
        out: &[(
            "\t\tip6 daddr != { fe80::1, fdc9:50a5:3ed9::1, ff02::1:ff00:1 } drop\n",
            "",
        )],
        comes: &["nd-solicitation-to-everybody"],
        to: Place::Bridge,
    },
    Guard {
        what: "questions with the asker's card",
        out: &[(
            "ip6 length 32 @th,192,16 0x0101 iifname . @th,208,48 @cards accept",
            "accept",
        )],
        comes: &[
            "nd-solicitation-with-another-card",
            "nd-solicitation-with-another-option",
            "nd-solicitation-without-a-card",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "answers from the cable alone",
        out: &[(
            "chain tell_neighbour {\n\t\tip6 hoplimit != 255 drop\n",
            "chain tell_neighbour {\n",
        )],
        comes: &["nd-advertisement-from-afar"],
        to: Place::Bridge,
    },
    Guard {
        what: "answers of the one code",
        out: &[(
            "\t\ticmpv6 code != 0 drop\n\t\tiifname . icmpv6 taddr",
            "\t\tiifname . icmpv6 taddr",
        )],
        comes: &["nd-advertisement-of-another-code"],
        to: Place::Bridge,
    },
    Guard {
        what: "answers about oneself alone",
        out: &[("\t\tiifname . icmpv6 taddr != @addresses6 drop\n", "")],
        comes: &[
            "nd-advertisement-as-another-guest",
            "nd-advertisement-as-the-host",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "answers to the host alone",
        out: &[("\t\tip6 daddr != { fe80::1, fdc9:50a5:3ed9::1 } drop\n", "")],
        comes: &["nd-advertisement-to-everybody"],
        to: Place::Bridge,
    },
    Guard {
        what: "answers with the own card",
        out: &[(
            "ip6 length 32 @th,192,16 0x0201 iifname . @th,208,48 @cards accept",
            "accept",
        )],
        comes: &[
            "nd-advertisement-with-another-card",
            "nd-advertisement-with-another-option",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "questions are for whom they are about",
        out: &[(
            "icmpv6 type nd-neighbor-solicit oifname . icmpv6 taddr @addresses6 accept",
            "icmpv6 type nd-neighbor-solicit accept",
        )],
        comes: &["flooded-solicitation"],
        to: Place::Victim,
    },
    Guard {
        what: "IPv6 is for whom it is for",
        out: &[(
            "\t\toifname . ether daddr @seats oifname . ip6 daddr @addresses6 accept\n",
            "\t\taccept\n",
        )],
        comes: &["flooded-unicast-6", "flooded-router-advertisement"],
        to: Place::Victim,
    },
    Guard {
        what: "no guest reaches the host, nor does the host answer",
        out: &[
            ("\t\tiifname \"surplus0\" drop\n", ""),
            ("\t\toifname != \"surplus0\" accept\n", "\t\taccept\n"),
        ],
        comes: &["ping-to-the-host", "ping-to-the-host-6"],
        to: Place::Sender,
    },
    Guard {
        what: "the host is asked for addresses over IPv4 alone",
        out: &[(
            "iifname \"surplus0\" meta nfproto ipv4 udp",
            "iifname \"surplus0\" udp",
        )],
        // The host says that nobody listens.
        comes: &["dhcp-over-ipv6"],
        to: Place::Sender,
    },
    Guard {
        what: "no guest reaches the site's networks",
        out: &[("\t\tiifname \"surplus0\" ip daddr @near drop\n", "")],
        comes: &["to-the-management-network", "to-a-metadata-service"],
        to: Place::Outside,
    },
    Guard {
        what: "no guest reaches what is not the world's in IPv6",
        out: &[("\t\tiifname \"surplus0\" ip6 daddr @near6 drop\n", "")],
        comes: &[
            "to-a-private-network-6",
            "to-a-sites-network-6",
            "to-a-translated-address",
            "to-a-relayed-address",
            "to-a-tunnelled-address",
        ],
        to: Place::Outside,
    },
    Guard {
        what: "no guest reaches the uplink's own network in IPv6",
        out: &[(
            "\t\tiifname \"surplus0\" rt ip6 nexthop != fe80::/10 drop\n",
            "",
        )],
        comes: &["to-the-management-network-6"],
        to: Place::Outside,
    },
    Guard {
        what: "nothing goes out that no connection knows of",
        out: &[("\t\tiifname \"surplus0\" ct state invalid drop\n", "")],
        comes: &["unasked-answer", "unasked-answer-6"],
        to: Place::Outside,
    },
];

#[test]
fn without_any_one_guard_something_comes_through() -> Result<()> {
    surplus_tests::test("guards", |lab| {
        for guard in GUARDS {
            let mut setup = Setup::of_the_image(lab)?;
            for (old, new) in guard.out {
                setup = setup.with(old, new)?;
            }
            let heard = attack(lab, &setup)?;
            for name in guard.comes {
                let came = heard.at(guard.to).contains(*name);
                ensure!(
                    came,
                    "without {}, {name} comes to {:?} no more than with it: {heard:?}",
                    guard.what,
                    guard.to
                );
            }
        }
        Ok(())
    })
}

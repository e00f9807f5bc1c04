//! Proxy-DHCP, dnsmasq and Kea on a network of the test's own: each kind of
//! client hears the same from all of them.
//!
//! The settings in this directory's parent are those that operators take; only
//! the values that they are told to change are changed here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "servers/client.rs"]
mod client;
#[path = "servers/namespace.rs"]
mod namespace;
#[path = "servers/peers.rs"]
mod peers;
#[path = "servers/router.rs"]
mod router;

use std::sync::Arc;

use client::{Client, Heard, Kind};
use ipnet::IpNet;
use namespace::{HOST_SIDE, SERVER, SERVER_SIDE};
use router::{FAR_SIDE, Router};
use surplus_netboot::dhcp::{Boot, ListenError, Listener, Responder};
use surplus_netboot::hardware::{Choice, Prefix};
use surplus_netboot::interface::Interface;

fn boot() -> Boot {
    Boot {
        address: SERVER,
        bios: "undionly.kpxe".into(),
        uefi: "snponly.efi".into(),
        http: format!("http://{SERVER}:8080/surplus.efi"),
        script: format!("http://{SERVER}:8080/start.ipxe"),
        root: format!("http://{SERVER}:8080/root.img"),
    }
}

/// Runs our proxy-DHCP on the server's side of the cable.
fn proxy(ignore: Vec<Prefix>) -> tokio::runtime::Runtime {
    proxy_for(ignore, Vec::new())
}

/// The same, also for hosts behind relays that are in these networks.
fn proxy_for(ignore: Vec<Prefix>, relays: Vec<IpNet>) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let interface = Interface::find(SERVER_SIDE, None).unwrap();
    let listener = Listener::bind(&interface, !relays.is_empty()).unwrap();
    let choice = Choice {
        ignore,
        only: Vec::new(),
    };
    let responder = Responder {
        boot: boot(),
        choice,
        relays,
    };
    runtime.spawn(listener.serve(Arc::new(responder), |_, _| {}));
    drop(_inside);
    runtime
}

/// What each kind of client has to hear, whoever says it.
fn expected(kind: Kind) -> Heard {
    let boot = boot();
    let (file, class, server) = match kind {
        Kind::Bios => (boot.bios, None, Some(SERVER)),
        Kind::Uefi(_) => (boot.uefi, None, Some(SERVER)),
        Kind::Ipxe => (boot.script, None, None),
        Kind::Http => (boot.http, Some("HTTPClient"), None),
        Kind::Init => (boot.root, Some("surplus-init"), None),
    };
    Heard {
        file,
        class: class.map(str::to_owned),
        server,
    }
}

#[test]
fn every_client_is_told_by_proxy_dhcp_and_given_no_address() {
    if !namespace::enter("every_client_is_told_by_proxy_dhcp_and_given_no_address") {
        return;
    }
    let _proxy = proxy(Vec::new());
    for kind in Kind::ALL {
        let offer = Client::plug_in(HOST_SIDE).ask(kind);
        assert!(offer.address().is_none(), "{kind:?}");
        assert_eq!(offer.heard(kind), expected(kind), "{kind:?}");
    }
}

#[test]
fn proxy_dhcp_stands_beside_a_dhcp_server_on_one_machine() {
    if !namespace::enter("proxy_dhcp_stands_beside_a_dhcp_server_on_one_machine") {
        return;
    }
    let _dnsmasq = peers::plain_dnsmasq();
    let _proxy = proxy(vec!["52:54:00:00:00:99".parse().unwrap()]);
    let client = Client::plug_in(HOST_SIDE);
    let offers = client.ask_all(Kind::Bios, 2);
    let (ours, theirs): (Vec<_>, Vec<_>) =
        offers.iter().partition(|offer| offer.address().is_none());
    assert_eq!((ours.len(), theirs.len()), (1, 1));
    assert_eq!(ours[0].heard(Kind::Bios), expected(Kind::Bios));
    let lease = theirs[0].address().unwrap();
    // A renewal goes to the server by unicast: it must not end with us.
    client.take(theirs[0]);
    assert_eq!(client.renew(lease), Some(lease));
}

#[test]
fn dnsmasq_with_our_settings_says_what_proxy_dhcp_says() {
    if !namespace::enter("dnsmasq_with_our_settings_says_what_proxy_dhcp_says") {
        return;
    }
    peers::dnsmasq_takes_the_settings_as_they_are();
    let _dnsmasq = peers::dnsmasq();
    for kind in Kind::ALL {
        let offer = Client::plug_in(HOST_SIDE).ask(kind);
        assert!(offer.address().is_some(), "{kind:?}");
        assert_eq!(offer.heard(kind), expected(kind), "{kind:?}");
    }
}

#[test]
fn kea_with_our_settings_says_what_proxy_dhcp_says() {
    if !namespace::enter("kea_with_our_settings_says_what_proxy_dhcp_says") {
        return;
    }
    peers::kea_takes_the_settings_as_they_are();
    let _kea = peers::kea();
    for kind in Kind::ALL {
        let offer = Client::plug_in(HOST_SIDE).ask(kind);
        assert!(offer.address().is_some(), "{kind:?}");
        assert_eq!(offer.heard(kind), expected(kind), "{kind:?}");
    }
    // Proxy-DHCP stands beside it without more ado.
    let _proxy = proxy(Vec::new());
    let offers = Client::plug_in(HOST_SIDE).ask_all(Kind::Bios, 2);
    assert_eq!(offers.len(), 2);
}

#[test]
fn hosts_behind_a_relay_are_told_by_proxy_dhcp() {
    if !namespace::enter("hosts_behind_a_relay_are_told_by_proxy_dhcp") {
        return;
    }
    let router = Router::new();
    let _relay = peers::dnsmasq_as_relay(&router);
    let _proxy = proxy_for(Vec::new(), vec![router::AFAR.parse().unwrap()]);
    for kind in Kind::ALL {
        let offer = Client::plug_in(FAR_SIDE).ask(kind);
        assert!(offer.address().is_none(), "{kind:?}");
        assert_eq!(offer.heard(kind), expected(kind), "{kind:?}");
    }
}

#[test]
fn relays_are_not_heard_at_the_cost_of_a_dhcp_server_on_this_machine() {
    if !namespace::enter("relays_are_not_heard_at_the_cost_of_a_dhcp_server_on_this_machine") {
        return;
    }
    let _dnsmasq = peers::plain_dnsmasq();
    let client = Client::plug_in(HOST_SIDE);
    client.ask(Kind::Bios);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let interface = Interface::find(SERVER_SIDE, None).unwrap();
    let error = Listener::bind(&interface, true).unwrap_err();
    assert!(
        matches!(error, ListenError::HeldFromRelays { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("dnsmasq (process"), "{error}");
}

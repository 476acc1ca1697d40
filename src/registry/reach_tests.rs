//! Tests of the rule for reachable addresses.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;

use super::*;
use crate::error::Error;
use crate::registry::call::Call;
use crate::registry::context::Context;
use crate::registry::host::Host;
use crate::registry::options::Options;
use crate::registry::proxy::Proxies;
use crate::registry::scope::Scope;

fn zone(text: &str) -> Option<Zone> {
    Zone::from_url(&Url::parse(text).unwrap())
}

#[test]
fn an_address_has_one_zone_in_every_spelling() {
    for machine in [
        "http://localhost",
        "http://localhost.",
        "http://LOCALHOST.:5000",
        "http://x.localhost",
        "http://x.localhost./",
        "http://%6cocalhost",
        "http://127.9.9.9",
        "http://127.0.0.1.",
        "http://127.1",
        "http://2130706433",
        "http://0x7f000001",
        "http://0x7f.1",
        "http://0177.0.0.1",
        "http://１２７.0.0.1",
        "http://0",
        "http://0.0.0.0",
        "http://0.1.2.3",
        "http://[::]",
        "http://[::1]:5",
        "http://[0:0:0:0:0:0:0:1]",
        "http://[::ffff:127.0.0.1]",
        "http://[::ffff:7f00:1]",
        "http://[::ffff:0.0.0.0]",
        "http://[::127.0.0.1]",
        "http://[::ffff:0:127.0.0.1]",
        "http://[64:ff9b::7f00:1]",
        "http://[64:ff9b:1::127.0.0.1]",
        "http://[2002:7f00:1::]",
    ] {
        assert_eq!(zone(machine), Some(Zone::Machine), "{machine}");
    }
    for link in [
        "http://169.254.169.254",
        "http://2852039166",
        "http://0xa9fea9fe",
        "http://[fe80::1]",
        "http://[febf::1]",
        "http://[::ffff:169.254.169.254]",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://[fd00:ec2::254]",
        "http://[fd20:ce::254]",
        "http://100.100.100.200",
        "http://168.63.129.16",
        "http://192.0.0.192",
        "http://255.255.255.255",
    ] {
        assert_eq!(zone(link), Some(Zone::Link), "{link}");
    }
    for network in [
        "http://10.0.0.1",
        "http://172.16.0.1",
        "http://192.168.0.1",
        "http://[fd00::1]",
        "http://[2001:db8::1]",
        "http://[::ffff:10.0.0.1]",
        "http://[64:ff9b::808:808]",
    ] {
        assert_eq!(zone(network), Some(Zone::Network), "{network}");
    }
    for name in ["http://registry", "http://localhost.example", "http://notlocalhost"] {
        assert_eq!(zone(name), None, "{name}");
    }
}

#[test]
fn a_server_leads_to_the_network_and_to_its_own_zone() {
    use Zone::{Link, Machine, Network};
    for (from, allowed) in [
        (Reach::Anywhere, [true, true, true]),
        (Reach::From(Network), [false, false, true]),
        (Reach::From(Machine), [true, false, true]),
        (Reach::From(Link), [false, true, true]),
    ] {
        assert_eq!(
            [Machine, Link, Network].map(|zone| from.allows(zone)),
            allowed,
            "{from:?}"
        );
    }
}

/// Names in the tests; every other name has no address.
fn names(name: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: &[&str] = match name.trim_end_matches('.') {
        "inside.test" | "localhost" => &["127.0.0.1"],
        "metadata.test" => &["169.254.169.254", "fe80::1"],
        "both.test" => &["127.0.0.1", "192.0.2.7", "::1"],
        "private.test" => &["10.0.0.1"],
        _ => return Err(io::Error::other("no such name")),
    };
    let parsed = addresses.iter().map(|a| SocketAddr::new(a.parse().unwrap(), 0));
    Ok(parsed.collect())
}

#[tokio::test]
async fn the_addresses_of_a_name_are_held_against_the_rule() {
    let resolve = async |reach, name: &str| {
        let guard = Guard {
            reach,
            lookup: names,
            proxy: Some("localhost".to_owned()),
        };
        let found = guard.resolve(name.parse().unwrap()).await;
        found.map(|found| found.map(|a| a.ip().to_string()).collect::<Vec<_>>())
    };
    let far = Reach::From(Zone::Network);
    for name in ["inside.test", "inside.test.", "metadata.test"] {
        let error = resolve(far, name).await.unwrap_err();
        assert!(error.downcast_ref::<OutOfReach>().is_some(), "{name}: {error}");
        assert!(resolve(Reach::Anywhere, name).await.is_ok(), "{name}");
    }
    assert_eq!(resolve(far, "both.test").await.unwrap(), ["192.0.2.7"]);
    assert_eq!(resolve(far, "private.test").await.unwrap(), ["10.0.0.1"]);
    assert_eq!(
        resolve(far, "localhost").await.unwrap(),
        ["127.0.0.1"],
        "the proxy is the user's own"
    );
    let error = resolve(far, "absent.test").await.unwrap_err();
    assert!(error.downcast_ref::<OutOfReach>().is_none(), "{error}");
}

/// Starts a server that gives the same answer to every request, and counts the requests.
fn server(answer: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, count)
}

fn answer(status: u16, header: &str) -> String {
    format!("HTTP/1.1 {status} x\r\n{header}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

/// Sends a request to a registry that gives this answer.
/// If `elsewhere`, every host but `inside.test` is reached through a proxy, so that the registry is not in this machine's
/// zone.
async fn ask(answer: String, elsewhere: bool, any_token_server: bool) -> Result<u16, Error> {
    let (registry, _) = server(answer);
    let mut options = Options {
        plain_http: true,
        retries: Some(0),
        any_token_server,
        ..Options::default()
    };
    let name = if elsewhere {
        let proxy = format!("http://{registry}");
        options.proxies = Proxies::standard(&|name| match name {
            "HTTP_PROXY" => Some(proxy.clone().into()),
            "NO_PROXY" => Some("inside.test".into()),
            _ => None,
        })
        .unwrap();
        "registry.test".to_owned()
    } else {
        registry.to_string()
    };
    let mut context = Context::new(options).unwrap();
    context.lookup = names;
    let host = Host::named(&name, Arc::new(context)).unwrap();
    let call = Call::new(
        Method::GET,
        host.url("a", "tags/list"),
        "a",
        Scope::pull("a"),
        "cannot ask".to_owned(),
    );
    host.exchange(&call).await.map(|answer| answer.status().as_u16())
}

#[tokio::test]
async fn a_name_that_means_this_machine_is_not_connected_to() {
    let (inside, seen) = server(answer(204, "x: y"));
    let at = format!("http://inside.test:{}/", inside.port());
    for (status, header) in [
        (307, format!("location: {at}")),
        (401, format!("www-authenticate: Bearer realm=\"{at}\"")),
    ] {
        let error = ask(answer(status, &header), true, false).await.unwrap_err();
        let text = error.full();
        assert!(text.contains("(127.0.0.1) is an address of this machine"), "{text}");
        assert!(error.hint().unwrap().contains("--any-token-server"), "{error:?}");
        assert_eq!(seen.load(Ordering::SeqCst), 0, "{status}");
        // A registry on this machine may redirect to this machine.
        let here = ask(answer(status, &header), false, false).await;
        assert!(!format!("{here:?}").contains("an address of this machine"), "{here:?}");
        assert_eq!(seen.swap(0, Ordering::SeqCst), 1, "{status}");
    }
    // A token server may be on this machine if the user allows it.
    let header = format!("www-authenticate: Bearer realm=\"{at}\"");
    let _ = ask(answer(401, &header), true, true).await;
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_registry_on_this_machine_does_not_lead_to_the_local_link() {
    for target in ["http://169.254.169.254:9/", "http://metadata.test:9/"] {
        let error = ask(answer(307, &format!("location: {target}")), false, false).await;
        let text = error.unwrap_err().full();
        assert!(
            text.contains("an address of this machine or of its local link"),
            "{text}"
        );
    }
}

//! Bytes of requests that the kernel holds because the peer has not acknowledged them yet.
//! The HTTP library reports which bytes the kernel took. Over a slow line the kernel takes none for minutes, although the peer
//! acknowledges bytes all the time: its send buffer is large, and has to lose a third of its content first.

use std::collections::{HashMap, HashSet};
use std::fs;

/// Unacknowledged bytes of the connections of this process to one port, by the inode of their socket.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SendQueues(HashMap<u64, u64>);

impl SendQueues {
    /// Reads the queues from `/proc` (proc_pid_net(5)); `None` if this machine does not tell.
    pub(super) fn read(port: u16) -> Option<Self> {
        let links = fs::read_dir("/proc/self/fd").ok()?;
        let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let own: HashSet<u64> = links
            .filter_map(|link| {
                let inode = link.to_str()?.strip_prefix("socket:[")?;
                inode.strip_suffix(']')?.parse().ok()
            })
            .collect();
        let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
        let text: String = tables
            .into_iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .collect();
        let mut queues = parse(&text, port);
        queues.retain(|inode, _| own.contains(inode));
        Some(Self(queues))
    }

    /// Returns whether the peers have acknowledged at least `least` bytes, and at least one, of every queue that `earlier` held.
    /// A queue that was refilled meanwhile counts, since it is shorter or longer then.
    pub(super) fn moved_since(&self, earlier: &Self, least: u64) -> bool {
        let mut held = earlier.0.iter().filter(|(_, length)| **length > 0).peekable();
        let is_stuck = |before: u64, now: u64| now <= before && before - now < least.max(1);
        held.peek().is_some()
            && !held.any(|(inode, before)| self.0.get(inode).is_some_and(|now| is_stuck(*before, *now)))
    }
}

/// Returns the lengths of the send queues to this port, by inode.
fn parse(text: &str, port: u16) -> HashMap<u64, u64> {
    let remote = format!(":{port:04X}");
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, peer, _, queues, _, _, _, _, inode, ..] = fields.as_slice() else {
            return None;
        };
        let length = u64::from_str_radix(queues.split_once(':')?.0, 16).ok()?;
        peer.ends_with(&remote).then_some((inode.parse().ok()?, length))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lines_of_other_ports_and_heads_are_skipped() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:A2C4 0100007F:1388 01 002A69F3:00000000 01:00000014 00000000     0        0 4711 2 0000000000000000\n   \
            1: 0100007F:1388 0100007F:A2C4 01 00000000:00000A00 00:00000000 00000000     0        0 4712 1 0000000000000000\n";
        assert_eq!(parse(text, 5000), HashMap::from([(4711, 0x2a_69f3)]));
        assert_eq!(parse("", 1), HashMap::new());
    }

    #[test]
    fn a_queue_moves_if_enough_of_it_was_acknowledged() {
        let queues = |lengths: &[(u64, u64)]| SendQueues(lengths.iter().copied().collect());
        let before = queues(&[(1, 5000), (2, 0)]);
        for (now, expected) in [
            (queues(&[(1, 4000), (2, 0)]), true),
            (queues(&[(1, 4001), (2, 0)]), false),
            (queues(&[(1, 5000), (2, 700)]), false),
            // Refilled, closed, and empty.
            (queues(&[(1, 6000)]), true),
            (queues(&[]), true),
            (queues(&[(1, 0)]), true),
        ] {
            assert_eq!(now.moved_since(&before, 1000), expected, "{now:?}");
        }
        assert!(!before.moved_since(&queues(&[(1, 0)]), 1000), "nothing was held");
    }

    #[test]
    fn bytes_that_the_peer_does_not_read_stay_in_the_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_server, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        while client.write(&[0; 64 << 10]).is_ok() {}
        let queues = SendQueues::read(port).unwrap();
        assert!(
            queues.0.len() == 1 && queues.0.values().all(|length| *length > 0),
            "{queues:?}"
        );
    }
}

//! Finding the way into a guest: every address that is known of it is tried at once, and the first at which it answers with
//! the host key that it was given is the one.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::console::{Console, Deaf};
use crate::backend::proxmox::error::Failure;
use crate::error::{Error, Result};
use crate::seed;
use crate::ssh::{self, Login, SshSession};

/// How often the guest agent is asked.
const PACE: Duration = Duration::from_secs(1);

/// More addresses than these are not tried: a guest that lies should not have us knock everywhere.
const MOST: usize = 32;

/// Who tells where a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Whoever can: the recipe's static addresses, the guest agent, the guest on its console.
    Any,
    /// The guest agent alone.
    Agent,
    /// The guest alone, on its console.
    Console,
    /// It is here.
    At(IpAddr),
}

impl Whereabouts {
    /// Whether the guest's seed must have it tell its addresses ([`seed::Announce`]).
    pub fn need_announcing(self) -> bool {
        matches!(self, Whereabouts::Any | Whereabouts::Console)
    }

    fn need_agent(self) -> bool {
        matches!(self, Whereabouts::Any | Whereabouts::Agent)
    }
}

/// Who can be logged in to, once it is known where.
pub struct Door<'d> {
    pub user: &'d str,
    pub client_key: &'d ssh_key::PrivateKey,
    pub host_key: &'d ssh_key::PublicKey,
    pub port: u16,
    pub whereabouts: Whereabouts,
    /// Addresses that are known before anybody tells any.
    pub known: Vec<IpAddr>,
    /// The instance id in the guest's seed, with which it tells its addresses.
    pub id: &'d str,
}

impl Door<'_> {
    /// How to log in at an address.
    pub fn login(&self, address: IpAddr) -> Login {
        Login {
            address: SocketAddr::new(address, self.port),
            user: self.user.to_owned(),
            private_key: self.client_key.clone(),
            host_key: self.host_key.clone(),
        }
    }
}

/// Waits until a guest can be worked in, and returns where that is. Its console is read meanwhile, for errors as well.
pub async fn connect(
    server: &Proxmox,
    vmid: u32,
    door: &Door<'_>,
    patience: Duration,
) -> Result<(SshSession, IpAddr)> {
    let end = Instant::now() + patience;
    let mut attempts = Attempts::new(door, end);
    let console = Console::new(server, vmid);
    let (tell, mut told) = mpsc::channel(MOST);
    let mut said = BTreeSet::new();
    let mut following = pin!(console.follow(|line| {
        let addresses = seed::addresses(line, door.id).into_iter();
        for address in addresses.filter(|_| door.whereabouts.need_announcing()) {
            // What finds no room is more than is tried.
            if said.len() < MOST && said.insert(address) {
                let _ = tell.try_send(address);
            }
        }
    }));
    let mut heard = Heard::default();
    let mut next = Instant::now();
    loop {
        let ask = async {
            sleep_until(next).await;
            interfaces(server, vmid).await
        };
        tokio::select! {
            Some((address, session)) = attempts.running.next() => match session {
                Ok(session) => return Ok((session, address)),
                Err(error) => attempts.failed.push(format!("{address}: {error}")),
            },
            answer = ask, if !matches!(heard.agent, Agent::Forbidden(_)) => {
                heard.agent = Agent::of(answer);
                next = Instant::now() + PACE;
                match &heard.agent {
                    Agent::Told(addresses) if door.whereabouts.need_agent() => attempts.add(addresses),
                    Agent::Stopped => return Err(seen(stopped(vmid), &console)),
                    _ => {}
                }
            }
            Some(address) = told.recv() => attempts.add(&[address]),
            deaf = &mut following, if heard.console.is_none() => heard.console = Some(deaf),
            // Attempts end at the same time, and say why.
            () = sleep_until(end), if attempts.running.is_empty() => break,
        }
        if attempts.tried.is_empty() && heard.is_nothing_to_come() {
            break;
        }
    }
    let error = unreachable(server, vmid, patience, &heard, &attempts.failed);
    Err(seen(error, &console))
}

/// Adds what the guest has said.
fn seen(error: Error, console: &Console<'_>) -> Error {
    error.detail("last lines of the serial console", console.tail())
}

/// Logging in at several addresses at once.
struct Attempts<'d> {
    door: &'d Door<'d>,
    end: Instant,
    tried: BTreeSet<IpAddr>,
    running: FuturesUnordered<LocalBoxFuture<'d, (IpAddr, Result<SshSession>)>>,
    failed: Vec<String>,
}

impl<'d> Attempts<'d> {
    /// Begins with what is known.
    fn new(door: &'d Door<'d>, end: Instant) -> Self {
        let mut attempts = Attempts {
            door,
            end,
            tried: BTreeSet::new(),
            running: FuturesUnordered::new(),
            failed: vec![],
        };
        match door.whereabouts {
            Whereabouts::At(address) => attempts.add(&[address]),
            Whereabouts::Any => attempts.add(&door.known),
            Whereabouts::Agent | Whereabouts::Console => {}
        }
        attempts
    }

    /// Tries these, too.
    fn add(&mut self, addresses: &[IpAddr]) {
        for address in addresses.iter().copied() {
            if self.tried.len() < MOST && self.tried.insert(address) {
                let login = self.door.login(address);
                let left = self.end.saturating_duration_since(Instant::now());
                let attempt = async move { (address, ssh::connect(&login, left).await) };
                self.running.push(attempt.boxed_local());
            }
        }
    }
}

/// What was heard of a guest, other than addresses.
#[derive(Default)]
struct Heard {
    agent: Agent,
    /// Why the console is not read.
    console: Option<Deaf>,
}

impl Heard {
    /// Whether nobody will tell an address any more.
    fn is_nothing_to_come(&self) -> bool {
        matches!(self.agent, Agent::Forbidden(_)) && self.console.is_some()
    }
}

/// What the guest agent said last.
#[derive(Default)]
enum Agent {
    #[default]
    Unasked,
    Told(Vec<IpAddr>),
    Silent(String),
    /// We may not ask it.
    Forbidden(Failure),
    /// There is no guest any more.
    Stopped,
}

impl Agent {
    fn of(told: Result<Vec<IpAddr>, Failure>) -> Self {
        match told {
            Ok(addresses) => Agent::Told(addresses),
            Err(failure) if failure.why.status() == Some(403) => Agent::Forbidden(failure),
            Err(failure) if failure.why.says("is not running") && !failure.why.says("agent") => {
                Agent::Stopped
            }
            Err(failure) => Agent::Silent(failure.why.to_string()),
        }
    }
}

/// The addresses that the guest says it has.
async fn interfaces(server: &Proxmox, vmid: u32) -> Result<Vec<IpAddr>, Failure> {
    let told: Interfaces = server.ask_agent(vmid, "network-get-interfaces").await?;
    Ok(told.addresses())
}

#[derive(Deserialize)]
struct Interfaces {
    result: Vec<Interface>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Interface {
    name: String,
    #[serde(default)]
    ip_addresses: Vec<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Address {
    ip_address: String,
}

impl Interfaces {
    /// All but those of the guest's own loopback, and those that mean nothing without an interface.
    fn addresses(&self) -> Vec<IpAddr> {
        let interfaces = self.result.iter().filter(|it| it.name != "lo");
        let addresses = interfaces.flat_map(|it| &it.ip_addresses);
        let addresses = addresses.filter_map(|it| it.ip_address.parse().ok());
        addresses.filter(|it| !is_link_local(it)).collect()
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The static addresses in a network configuration for cloud-init: what is written there as address with prefix
/// (`192.0.2.10/24`), and is no network. Whatever else that finds has not our host key.
pub fn static_addresses(config: &str) -> Vec<IpAddr> {
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/');
    let words = config.split(|c| !is_part(c));
    let words = words.filter_map(|word| {
        let (address, prefix) = word.trim_matches(':').split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let (bits, width) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let prefix: u32 = prefix.parse().ok().filter(|prefix| *prefix <= width)?;
        let host = width - prefix;
        let is_network = host > 0 && bits.trailing_zeros() >= host;
        (!is_network).then_some(address)
    });
    words.collect()
}

fn stopped(vmid: u32) -> Error {
    Error::new(format!("waiting for SSH in the machine {vmid}"))
        .cause("it does not run any more: the guest has powered off, or crashed")
        .hint("does the image boot with the recipe's `[machine] firmware`?")
}

fn unreachable(
    server: &Proxmox,
    vmid: u32,
    patience: Duration,
    heard: &Heard,
    failed: &[String],
) -> Error {
    let seconds = patience.as_secs();
    let error = Error::new(format!(
        "waiting for SSH in the machine {vmid} for {seconds} s"
    ));
    let agent = match &heard.agent {
        Agent::Unasked => "the guest agent was not asked".to_owned(),
        Agent::Told(addresses) if addresses.is_empty() => "the guest has no address yet".to_owned(),
        Agent::Told(_) => "the guest agent has told its addresses".to_owned(),
        Agent::Silent(said) => format!("the guest agent does not answer ({said})"),
        Agent::Forbidden(failure) => format!("the guest agent must not be asked ({failure})"),
        Agent::Stopped => "it does not run".to_owned(),
    };
    let told = match &heard.console {
        None => agent,
        Some(deaf) => format!("{agent}; its console cannot be read ({deaf})"),
    };
    let node = &server.target.node;
    let look = heard.console.as_ref().map(|deaf| {
        let look = format!("to see it boot, run `qm terminal {vmid}` on {node} while this waits");
        deaf.hint()
            .map_or(look.clone(), |hint| format!("{hint}; {look}"))
    });
    let (cause, hint) = match failed.is_empty() {
        true => (
            format!("it is not known at which address it is: {told}"),
            without_address(&heard.agent),
        ),
        false => (
            format!("{}; {told}", failed.join("; ")),
            "is there a way from here to the bridge? If the guest is only slow, raise `[ssh] timeout`".to_owned(),
        ),
    };
    let hints = [Some(hint), look].into_iter().flatten();
    error
        .cause(cause)
        .hint(hints.collect::<Vec<_>>().join("; "))
}

/// What helps if nobody tells where a guest is.
fn without_address(agent: &Agent) -> String {
    let hint = match agent {
        Agent::Forbidden(failure) => failure.hint(),
        _ => None,
    };
    hint.unwrap_or_else(|| {
        "the image must have the guest agent, or cloud-init and a console on its first serial port, or the recipe a static \
         address in `[cloud-init] network-config`"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_s_addresses_are_those_that_lead_into_the_guest() {
        let told = r#"{"result": [
            {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]},
            {"name": "eth0", "hardware-address": "bc:24:11:00:00:01", "ip-addresses": [
                {"ip-address": "192.0.2.10", "ip-address-type": "ipv4", "prefix": 24},
                {"ip-address": "2001:db8::a", "ip-address-type": "ipv6", "prefix": 64},
                {"ip-address": "fe80::be24:11ff:fe00:1", "ip-address-type": "ipv6", "prefix": 64}]},
            {"name": "eth1"}
        ]}"#;
        let told: Interfaces = serde_json::from_str(told).unwrap();
        let expected: Vec<IpAddr> = vec![
            "192.0.2.10".parse().unwrap(),
            "2001:db8::a".parse().unwrap(),
        ];
        assert_eq!(told.addresses(), expected);
    }

    #[test]
    fn static_addresses_are_found_in_both_versions_and_notations() {
        let yaml = "version: 2\nethernets:\n  any:\n    match: {name: 'e*'}\n    addresses: [192.0.2.10/24, \"2001:db8::a/64\"]\n    \
                    routes:\n      - to: 0.0.0.0/0\n        via: 192.0.2.1\n      - to: 10.0.0.0/8\n        via: 192.0.2.2\n";
        let expected: Vec<IpAddr> = vec![
            "192.0.2.10".parse().unwrap(),
            "2001:db8::a".parse().unwrap(),
        ];
        assert_eq!(static_addresses(yaml), expected);
        let json = r#"{"config": [{"subnets": [{"type": "static", "address":"192.0.2.11/32"}]}]}"#;
        assert_eq!(
            static_addresses(json),
            ["192.0.2.11".parse::<IpAddr>().unwrap()]
        );
        assert!(static_addresses("version: 2\nethernets: {any: {dhcp4: true}}").is_empty());
        assert!(static_addresses("addresses: [192.0.2.10/33, 1/2, a/b]").is_empty());
    }
}

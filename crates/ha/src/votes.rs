//! Counting majorities.
//!
//! Each host has two votes, the controller three. So the sum is odd and never splits evenly: of two halves, the one with
//! the controller goes on. With the controller away, the hosts alone still have a majority.
//!
//! ```text
//!  hosts   sum   needed    goes on                          stops
//!    2      7      4       any two of h1, h2, controller    one alone
//!    3      9      5       controller + 1; all 3 hosts      2 hosts without the controller
//!    4     11      6       controller + 2; 3 hosts          2 hosts; controller + 1
//!    5     13      7       controller + 2; 4 hosts          3 hosts without the controller
//! ```

use std::collections::BTreeSet;

use gantry_types::{Member, Members, Name};

const HOST_VOTES: usize = 2;
const CONTROLLER_VOTES: usize = 3;
/// With fewer hosts nobody could take over, and a controller's outage would be indistinguishable from the host's own.
pub const HOSTS_MIN: usize = 2;

/// Whether this host, going by these members, can be fenced by its lease at all.
pub fn can_fence(members: &Members, host: &Name) -> bool {
    members.hosts.len() >= HOSTS_MIN && members.hosts.contains_key(host)
}

/// Whether these members have more than half of all votes. Who is no member has none.
pub fn is_majority<'a>(members: &Members, who: impl IntoIterator<Item = &'a Member>) -> bool {
    let who: BTreeSet<&Member> = who.into_iter().collect();
    let votes: usize = who.iter().map(|member| votes_of(members, member)).sum();
    2 * votes > HOST_VOTES * members.hosts.len() + CONTROLLER_VOTES
}

/// Whether these members, without `host`, have a majority.
pub fn is_majority_without(members: &Members, who: &BTreeSet<Member>, host: &Name) -> bool {
    is_majority(members, who.iter().filter(|member| **member != Member::Host(host.clone())))
}

fn votes_of(members: &Members, member: &Member) -> usize {
    match member {
        Member::Controller => CONTROLLER_VOTES,
        Member::Host(name) if members.hosts.contains_key(name) => HOST_VOTES,
        Member::Host(_) => 0,
    }
}

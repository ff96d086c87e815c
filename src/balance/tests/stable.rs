//! `ip_hash`: who stays, who moves, and that the map is the same tomorrow.

use super::*;
use crate::backend::stable_hash;
use crate::config::IpHashPlan;

const CLIENTS: u64 = 20_000;

fn homes(picker: &mut Picker) -> Vec<String> {
    (0..CLIENTS)
        .map(|client| {
            let index = picker.pick_for(Some(stable_hash(&client.to_be_bytes()))).index;
            picker.pool[index].name.to_string()
        })
        .collect()
}

#[test]
fn when_a_backend_leaves_only_its_own_clients_move_and_they_spread() {
    let weights = [1, 2, 1, 3, 1];
    let mut picker = Picker::new(StrategyKind::IpHash, pool(&weights));
    let before = homes(&mut picker);
    let left = picker.pool.remove(3);
    let after = homes(&mut picker);
    let mut heirs = vec![0; 4];
    for (was, is) in before.iter().zip(&after) {
        if *was == *left.name {
            heirs[picker.pool.iter().position(|backend| *backend.name == **is).unwrap()] += 1;
        } else {
            assert_eq!(was, is);
        }
    }
    assert_shares(&heirs, &[1.0, 2.0, 1.0, 1.0]);
    picker.pool.insert(0, left);
    assert_eq!(homes(&mut picker), before, "it comes back, elsewhere in the list, to its own clients");
}

#[test]
fn a_larger_weight_only_attracts() {
    let mut picker = Picker::new(StrategyKind::IpHash, pool(&[1, 1, 1, 1]));
    let before = homes(&mut picker);
    picker.pool[2].set_weight(2);
    for (was, is) in before.iter().zip(homes(&mut picker)) {
        assert!(*was == is || is == "instance-2", "{was} -> {is}");
    }
}

/// Written down: a change of this list moves every client of every user.
#[test]
fn the_map_never_changes() {
    let mut picker = Picker::new(StrategyKind::IpHash, pool(&[1, 1, 2, 1, 5, 1]));
    let clients = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.168.7.9", "2001:db8::1", "2001:db8::2", "127.0.0.1", ""];
    let homes = clients.map(|client| picker.pick_for(Some(stable_hash(client.as_bytes()))).index);
    assert_eq!(homes, [3, 1, 1, 4, 0, 4, 2, 4]);
}

#[test]
fn a_bound_sends_the_overflow_of_a_hot_client_elsewhere_and_always_to_the_same() {
    let mut plan = StrategyPlan::new(StrategyKind::IpHash);
    plan.ip_hash = IpHashPlan { bounded_load: 1.25 };
    let mut picker = Picker::new(StrategyKind::IpHash, pool(&[1; 6]));
    picker.strategy = build(&plan);
    let mut held = Vec::new();
    let mut order = Vec::new();
    for _ in 0..120 {
        let index = picker.pick_for(Some(42)).index;
        held.push(InFlight::enter(&picker.pool[index]).unwrap());
        order.push(index);
    }
    // Nobody above 1.25 × 120 ÷ 6, rounded up.
    assert!(picker.pool.iter().all(|backend| backend.in_flight() <= 25), "{:?}", order);
    // Without load it is as if there were no bound.
    drop(held);
    let home = order[0];
    assert!((0..50).all(|_| picker.pick_for(Some(42)).index == home));
    // The first overflow goes to the second in this client's own order.
    let _full = load(&picker.pool, &{
        let mut counts = [0; 6];
        counts[home] = 5;
        counts
    });
    let second = picker.pick_for(Some(42)).index;
    assert!(second != home && (0..50).all(|_| picker.pick_for(Some(42)).index == second));
}

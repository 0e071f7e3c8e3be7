//! Dividing what a whole pool may have among the hosts that run VMs of it.

/// What one host wants of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Want {
    /// Never less than this, as long as the whole is enough for everybody's.
    pub floor: f64,
    /// In the proportion of these the rest is given out.
    pub demand: f64,
    /// More is of no use there; at least `floor`.
    pub most: f64,
}

/// Everybody's part of `whole`, in the order of `wants`: first the floors, then the rest by demand, nobody more than is
/// of use to it. What is of use to nobody is given out all the same, so that the whole is there when demand grows.
pub fn divide(whole: f64, wants: &[Want]) -> Vec<f64> {
    let floors: f64 = wants.iter().map(|want| want.floor).sum();
    let scale = if floors > whole { whole / floors } else { 1.0 };
    let mut parts: Vec<f64> = wants.iter().map(|want| want.floor * scale).collect();
    let mut left = (whole - parts.iter().sum::<f64>()).max(0.0);
    let mut open: Vec<usize> = (0..wants.len()).filter(|at| wants[*at].most > parts[*at]).collect();
    while left > whole * 1e-9 && !open.is_empty() {
        let demand: f64 = open.iter().map(|at| wants[*at].demand).sum();
        let round = left;
        for at in &open {
            let share = if demand > 0.0 { wants[*at].demand / demand } else { 1.0 / open.len() as f64 };
            let part = (round * share).min(wants[*at].most - parts[*at]);
            parts[*at] += part;
            left -= part;
        }
        let before = open.len();
        open.retain(|at| wants[*at].most - parts[*at] > whole * 1e-9);
        if open.len() == before {
            break;
        }
    }
    if left > 0.0 && !parts.is_empty() {
        let each = left / parts.len() as f64;
        parts.iter_mut().for_each(|part| *part += each);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(floor: f64, demand: f64, most: f64) -> Want {
        Want { floor, demand, most }
    }

    #[test]
    fn floors_come_first_and_the_rest_goes_by_demand() {
        assert_eq!(divide(400.0, &[want(0.0, 30.0, 800.0), want(0.0, 10.0, 800.0)]), [300.0, 100.0]);
        assert_eq!(divide(400.0, &[want(200.0, 0.0, 800.0), want(0.0, 10.0, 800.0)]), [200.0, 200.0]);
        // The first can use only 100: the others have the rest.
        assert_eq!(divide(400.0, &[want(0.0, 90.0, 100.0), want(0.0, 10.0, 800.0)]), [100.0, 300.0]);
        // Nobody could use all of it.
        assert_eq!(divide(400.0, &[want(0.0, 1.0, 100.0), want(0.0, 1.0, 100.0)]), [200.0, 200.0]);
        // More is promised than there is.
        assert_eq!(divide(100.0, &[want(300.0, 1.0, 300.0), want(100.0, 1.0, 100.0)]), [75.0, 25.0]);
        assert_eq!(divide(100.0, &[]), [0.0; 0]);
    }

    proptest::proptest! {
        #[test]
        fn the_whole_is_given_out(
            wants in proptest::collection::vec((0u32..50, 0u32..100, 50u32..800), 1..20), whole in 1u32..5000,
        ) {
            let wants: Vec<Want> =
                wants.into_iter().map(|(floor, demand, most)| want(floor.into(), demand.into(), most.into())).collect();
            let parts = divide(whole.into(), &wants);
            let given: f64 = parts.iter().sum();
            proptest::prop_assert!((given - f64::from(whole)).abs() < f64::from(whole) * 1e-6);
            let enough = wants.iter().map(|want| want.floor).sum::<f64>() <= f64::from(whole);
            for (want, part) in wants.iter().zip(&parts) {
                proptest::prop_assert!(!enough || *part >= want.floor - 1e-6);
            }
        }
    }
}

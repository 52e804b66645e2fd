//! Which node a build goes to, by what is known of all.

/// A node that a build may go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    /// Why it cannot be used, whatever else it has.
    pub unfit: Vec<String>,
    /// Bytes of memory that nobody uses.
    pub memory: u64,
    /// How many builds of this command are on it.
    pub builds: u32,
    /// Bytes of memory that they were promised.
    pub promised: u64,
    /// How many steps of the build are in a layer that it has.
    pub steps: usize,
}

/// What comes of all candidates together.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice<'c> {
    /// This one is the best.
    Node(&'c Candidate),
    /// All that could be used have as many builds as they may.
    Wait,
    /// None can be used.
    Nowhere,
}

/// Chooses among those that can be used and have fewer builds than `limit`: the one whose layer has most of the steps behind
/// it; where none has any, or several have as much, the one with most memory. What builds were promised counts as used, since
/// one that has just begun uses nothing yet.
pub fn choose(all: &[Candidate], limit: u32) -> Choice<'_> {
    let fit = || all.iter().filter(|node| node.unfit.is_empty());
    let free = fit().filter(|node| node.builds < limit);
    let best = free.max_by(|a, b| {
        let worth = |node: &Candidate| (node.steps, node.memory.saturating_sub(node.promised));
        // Of equal ones the first by name: the same question has the same answer.
        worth(a).cmp(&worth(b)).then_with(|| b.name.cmp(&a.name))
    });
    match best {
        Some(node) => Choice::Node(node),
        None if fit().next().is_some() => Choice::Wait,
        None => Choice::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, memory: u64) -> Candidate {
        Candidate {
            name: name.into(),
            memory,
            ..Candidate::default()
        }
    }

    /// The name of the chosen one, `wait` or `nowhere`.
    fn chosen(all: &[Candidate]) -> &str {
        match choose(all, 2) {
            Choice::Node(node) => &node.name,
            Choice::Wait => "wait",
            Choice::Nowhere => "nowhere",
        }
    }

    #[test]
    fn the_best_node_that_can_be_used_and_has_room_for_a_build_is_chosen() {
        let unfit = |node: Candidate| Candidate {
            unfit: vec!["it is offline".into()],
            ..node
        };
        let with = |builds, promised, node: Candidate| Candidate {
            builds,
            promised,
            ..node
        };
        let layered = |steps, node: Candidate| Candidate { steps, ..node };
        let (a, b) = (|| node("a", 4), || node("b", 8));
        for (told, all, expected) in [
            ("most memory", vec![a(), b()], "b"),
            ("equal: the first by name", vec![node("z", 4), a()], "a"),
            ("unfit", vec![a(), unfit(b())], "a"),
            ("full", vec![a(), with(2, 0, b())], "a"),
            ("one more fits", vec![a(), with(1, 0, b())], "b"),
            ("promised memory is used", vec![a(), with(1, 5, b())], "a"),
            ("promised too much", vec![a(), with(1, 99, b())], "a"),
            ("a layer", vec![layered(1, a()), b()], "a"),
            ("a deeper one", vec![layered(1, a()), layered(2, b())], "b"),
            ("as deep", vec![layered(2, a()), layered(2, b())], "b"),
            (
                "a layer on a full one",
                vec![with(2, 0, layered(1, a())), b()],
                "b",
            ),
            (
                "a layer on an unfit one",
                vec![unfit(layered(1, a())), b()],
                "b",
            ),
            ("all full", vec![with(2, 0, a()), with(3, 0, b())], "wait"),
            ("full or unfit", vec![with(2, 0, a()), unfit(b())], "wait"),
            ("all unfit", vec![unfit(a()), unfit(b())], "nowhere"),
            ("no node at all", vec![], "nowhere"),
        ] {
            assert_eq!(chosen(&all), expected, "{told}");
        }
    }

    #[test]
    fn builds_that_begin_at_the_same_time_are_spread() {
        let mut all = [node("a", 10), node("b", 9), node("c", 2)];
        let mut order = vec![];
        loop {
            let name = chosen(&all).to_owned();
            let Some(node) = all.iter_mut().find(|node| node.name == name) else {
                order.push(name);
                break;
            };
            node.builds += 1;
            node.promised += 4;
            order.push(name);
        }
        assert_eq!(order, ["a", "b", "a", "b", "c", "c", "wait"]);
    }
}

//! Why: a figure is a ratio of two things measured in turn on the same machine; it is told with its spread. Never a single number.

/// Whether a part is to be measured: those that the command line names, all of them if it names none.
pub fn wanted(part: &str) -> bool {
    let mut named = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    named.peek().is_none() || named.any(|name| name == part)
}

/// Minimum, median and maximum.
#[derive(Clone, Copy)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { min: values[0], median: values[values.len() / 2], max: values[values.len() - 1] }
    }
}

/// Runs two measurements in turn and prints both and their ratio, pair by pair, beside the goal where there is one.
pub async fn pair(
    name: &str,
    unit: &str,
    goal: impl Into<Option<f64>>,
    runs: usize,
    mut ours: impl AsyncFnMut(usize) -> f64,
    mut theirs: impl AsyncFnMut(usize) -> f64,
) {
    let (mut a, mut b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        // Whoever goes first alternates, so that neither always meets the warmer machine.
        let (x, y) = if run % 2 == 0 {
            let x = ours(run).await;
            (x, theirs(run).await)
        } else {
            let y = theirs(run).await;
            (ours(run).await, y)
        };
        a.push(x);
        b.push(y);
        ratios.push(x / y);
    }
    println!("\n{name}");
    row("ours", Spread::of(a), unit);
    row("yardstick", Spread::of(b), unit);
    let ratio = Spread::of(ratios);
    let goal = goal.into().map_or("no goal".to_owned(), |goal| format!("goal ≥ {goal}: {}", if ratio.median >= goal { "met" } else { "NOT met" }));
    println!("  {:<12} min {:>8.3}  median {:>8.3}  max {:>8.3}   {goal}", "ratio", ratio.min, ratio.median, ratio.max);
}

/// Prints one spread.
pub fn row(name: &str, spread: Spread, unit: &str) {
    println!("  {name:<12} min {:>12.1}  median {:>12.1}  max {:>12.1}  {unit}", spread.min, spread.median, spread.max);
}

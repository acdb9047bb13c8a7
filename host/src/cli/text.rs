//! Text that was written by others, as a terminal may show it.

/// Longer texts are cut in a table.
pub const WIDTH: usize = 60;

/// The same without what a terminal would obey.
pub fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// As much of it as fits into a table.
pub fn short(text: &str) -> String {
    let text = visible(text);
    if text.chars().count() <= WIDTH { text } else { text.chars().take(WIDTH - 1).chain(['…']).collect() }
}

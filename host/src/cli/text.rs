//! Text that was written by others, as a terminal may show it.

use super::status::Table;

/// Longer texts are cut in a table that has no more room.
pub const WIDTH: usize = 60;

/// The same without what a terminal would obey.
pub fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// As much of it as fits into any table.
pub fn short(text: &str) -> String {
    cut(visible(text), WIDTH)
}

/// A table whose columns with these heads are of texts: they are cut where the terminal is too narrow for them, but none to
/// less than [`WIDTH`].
pub fn fitted<const N: usize>(head: [&str; N], texts: &[&str], rows: Vec<[String; N]>) -> Table<N> {
    let terminal = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let columns = terminal.map(|size| usize::from(size.ws_col));
    let is_text = head.map(|name| texts.contains(&name));
    let mut widths = head.map(|name| name.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let most = most(columns, is_text, widths);
    let mut table = Table::new(head);
    for mut row in rows {
        for (cell, _) in row.iter_mut().zip(is_text).filter(|(_, is_text)| *is_text) {
            *cell = cut(std::mem::take(cell), most);
        }
        table.row(row);
    }
    table
}

/// How much of a text can be shown where columns need so much, two spaces between them.
fn most<const N: usize>(terminal: Option<usize>, is_text: [bool; N], widths: [usize; N]) -> usize {
    let widest = widths.iter().zip(is_text).filter(|(_, is_text)| *is_text).map(|(width, _)| *width).max();
    let needed = |most: usize| -> usize {
        let each = widths.iter().zip(is_text).map(|(width, is_text)| if is_text { most.min(*width) } else { *width });
        each.sum::<usize>() + 2 * N.saturating_sub(1)
    };
    // What goes elsewhere than to a terminal is as for a narrow one.
    let columns = terminal.unwrap_or_default();
    (WIDTH..=widest.unwrap_or_default()).rev().find(|most| needed(*most) <= columns).unwrap_or(WIDTH)
}

fn cut(text: String, most: usize) -> String {
    if text.chars().count() <= most { text } else { text.chars().take(most - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_where_the_terminal_is_too_narrow_and_no_more_than_that() {
        let most = |terminal| most(terminal, [false, true, true], [10, 30, 150]);
        // 10 and 30, 4 between them, and what is left.
        assert_eq!([most(Some(194)), most(Some(144)), most(Some(104))], [150, 100, 60]);
        assert_eq!([most(Some(80)), most(Some(0)), most(None)], [WIDTH; 3]);
        // All of them are cut to the same.
        assert_eq!(super::most(Some(212), [false, true, true], [10, 150, 150]), 99);
        assert_eq!(super::most::<0>(Some(80), [], []), WIDTH);
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(cut("four".into(), 4), "four");
        assert_eq!(cut("fives".into(), 4), "fiv…");
        let rows = vec![["é".repeat(100), "x".repeat(100)]];
        let text = fitted(["TEXT", "NUMBER"], &["TEXT"], rows).to_string();
        let line = text.lines().nth(1).expect("a row");
        assert!(line.ends_with(&format!("é…  {}", "x".repeat(100))), "{line}");
    }
}

//! For planted bugs: what a row says if one of its fields is left out.

use crate::plants::{Plant, planted};
use crate::record::rows::{Cell, Column, Content, Row};

fn plain(cell: &mut Cell) {
    match &mut cell.content {
        Content::Value { expiry, .. } if planted(Plant::P24Ttl) => *expiry = None,
        content @ Content::Deleted if planted(Plant::P24Mark) => {
            *content = Content::Value { bytes: Vec::new().into(), expiry: None };
        }
        _ => {}
    }
}

impl Row {
    /// True while a bug is planted that leaves out a field of rows.
    pub(crate) fn is_maimed() -> bool {
        use Plant::{P24Live, P24Map, P24Mark, P24Range, P24Row, P24Ttl};
        [P24Live, P24Map, P24Mark, P24Range, P24Row, P24Ttl].into_iter().any(planted)
    }

    /// The row without the field that the planted bug leaves out.
    pub(crate) fn maimed(&self) -> Self {
        let mut row = self.clone();
        // It would give away what is left out.
        row.dated = Default::default();
        if planted(Plant::P24Row) {
            row.deleted = None;
        }
        if planted(Plant::P24Live) {
            row.liveness = None;
        }
        if planted(Plant::P24Range) {
            row.ranges.clear();
        }
        for column in row.columns.values_mut() {
            match column {
                Column::Cell(cell) => plain(cell),
                Column::Elements { deleted, cells } => {
                    if planted(Plant::P24Map) {
                        *deleted = None;
                    }
                    cells.values_mut().for_each(plain);
                }
            }
        }
        row
    }
}

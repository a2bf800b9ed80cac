//! Whole numbers and decimals of any size: text, bytes and order.
//!
//! A varint is minimal big-endian two's complement; a decimal is a 32-bit scale and a varint.

use std::cmp::Ordering;

/// The most digits that a literal may have: reading them takes quadratic time.
const MAX_DIGITS: usize = 10_000;

/// Sign and big-endian magnitude without leading zeros; zero is empty.
pub(super) fn magnitude(bytes: &[u8]) -> (bool, Vec<u8>) {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let mut out = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in out.iter_mut().rev() {
            let (value, over) = (!*byte).overflowing_add(u8::from(carry));
            *byte = value;
            carry = over;
        }
        if carry {
            out.insert(0, 1);
        }
    }
    let zeros = out.iter().take_while(|byte| **byte == 0).count();
    out.drain(..zeros);
    (negative, out)
}

/// Minimal two's complement of a sign and a magnitude.
pub(super) fn twos_complement(negative: bool, magnitude: &[u8]) -> Vec<u8> {
    let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
    let mut out = vec![0];
    out.extend_from_slice(&magnitude[zeros..]);
    if negative {
        let mut carry = true;
        for byte in out.iter_mut().rev() {
            let (value, over) = (!*byte).overflowing_add(u8::from(carry));
            *byte = value;
            carry = over;
        }
    }
    minimal(&out).to_vec()
}

/// The shortest two's complement of the same number.
#[must_use]
pub fn minimal(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [first, second, ..] = rest {
        let spare = (*first == 0 && second & 0x80 == 0) || (*first == 0xFF && second & 0x80 != 0);
        if !spare {
            break;
        }
        rest = &rest[1..];
    }
    rest
}

/// A varint of decimal digits, with a sign perhaps.
#[must_use]
pub fn parse_varint(text: &str) -> Option<Vec<u8>> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits || digits.len() > MAX_DIGITS {
        return None;
    }
    let mut words: Vec<u32> = Vec::new();
    for chunk in chunks_of_nine(digits) {
        let mut carry: u64 = chunk.parse().ok()?;
        let scale = 10u64.pow(u32::try_from(chunk.len()).ok()?);
        for word in &mut words {
            carry += u64::from(*word) * scale;
            *word = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            words.push(carry as u32);
        }
    }
    let bytes: Vec<u8> = words.iter().rev().flat_map(|word| word.to_be_bytes()).collect();
    Some(twos_complement(negative, &bytes))
}

fn chunks_of_nine(digits: &str) -> impl Iterator<Item = &str> {
    (0..digits.len()).step_by(9).map(move |at| &digits[at..(at + 9).min(digits.len())])
}

/// The decimal digits of a varint. Quadratic in its length.
#[must_use]
pub fn varint_text(bytes: &[u8]) -> String {
    let (negative, magnitude) = magnitude(bytes);
    let mut words: Vec<u32> = Vec::new();
    for chunk in magnitude.rchunks(4) {
        words.push(chunk.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)));
    }
    let mut groups: Vec<u32> = Vec::new();
    while !words.is_empty() {
        let mut rest = 0u64;
        for word in words.iter_mut().rev() {
            let value = rest << 32 | u64::from(*word);
            *word = (value / 1_000_000_000) as u32;
            rest = value % 1_000_000_000;
        }
        groups.push(rest as u32);
        while words.last() == Some(&0) {
            words.pop();
        }
    }
    let mut out = String::new();
    if negative {
        out.push('-');
    }
    match groups.pop() {
        None => out.push('0'),
        Some(first) => out.push_str(&first.to_string()),
    }
    for group in groups.iter().rev() {
        out.push_str(&format!("{group:09}"));
    }
    out
}

/// Numeric order of varints.
#[must_use]
pub fn compare_varint(a: &[u8], b: &[u8]) -> Ordering {
    let (a_negative, a) = magnitude(a);
    let (b_negative, b) = magnitude(b);
    match (a_negative, b_negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (negative, _) => {
            let order = a.len().cmp(&b.len()).then_with(|| a.cmp(&b));
            if negative { order.reverse() } else { order }
        }
    }
}

/// A whole number that fits.
#[must_use]
pub fn varint_i128(bytes: &[u8]) -> Option<i128> {
    let bytes = minimal(bytes);
    if bytes.len() > 16 {
        return None;
    }
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let start = if negative { -1 } else { 0 };
    Some(bytes.iter().fold(start, |value, byte| value << 8 | i128::from(*byte)))
}

/// The varint of a number.
#[must_use]
pub fn varint_of(value: i128) -> Vec<u8> {
    minimal(&value.to_be_bytes()).to_vec()
}

/// Scale and varint of a decimal's bytes.
#[must_use]
pub fn decimal_parts(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let (scale, unscaled) = bytes.split_first_chunk::<4>()?;
    (!unscaled.is_empty()).then(|| (i32::from_be_bytes(*scale), unscaled))
}

/// A decimal of `-12.50e3`.
#[must_use]
pub fn parse_decimal(text: &str) -> Option<Vec<u8>> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    let unscaled = parse_varint(&format!("{whole}{fraction}"))?;
    let mut out = scale.to_be_bytes().to_vec();
    out.extend_from_slice(&unscaled);
    Some(out)
}

/// The decimal `unscaled` × 10^−`scale`.
#[must_use]
pub fn decimal_of(scale: i32, unscaled: i128) -> Vec<u8> {
    let mut out = scale.to_be_bytes().to_vec();
    out.extend_from_slice(&varint_of(unscaled));
    out
}

/// The sum of two decimals, each a scale and an unscaled number; `None`: it has too many digits.
#[must_use]
pub fn add_decimals(a: (i32, i128), b: (i32, i128)) -> Option<(i32, i128)> {
    let scale = a.0.max(b.0);
    let at_scale = |(own, unscaled): (i32, i128)| {
        if unscaled == 0 {
            return Some(0);
        }
        let zeros = scale.checked_sub(own)?.unsigned_abs();
        unscaled.checked_mul(10_i128.checked_pow(zeros)?)
    };
    Some((scale, at_scale(a)?.checked_add(at_scale(b)?)?))
}

/// A decimal as text: plain where that is short, else with an exponent.
#[must_use]
pub fn decimal_text(scale: i32, unscaled: &[u8]) -> String {
    let digits = varint_text(unscaled);
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits.as_str()),
    };
    match usize::try_from(scale) {
        Ok(0) => format!("{sign}{digits}"),
        Ok(scale) if scale < digits.len() => {
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            format!("{sign}{whole}.{fraction}")
        }
        Ok(scale) if scale < 100 => format!("{sign}0.{digits:0>scale$}"),
        Ok(_) | Err(_) => format!("{sign}{digits}E{}", -i64::from(scale)),
    }
}

/// Sign (−1, 0, 1), exponent and digits of a decimal: 0.d₁d₂… × 10^exponent, no zeros at either
/// end. Equal numbers have equal forms.
#[must_use]
pub fn normalized(scale: i32, unscaled: &[u8]) -> (i8, i64, Vec<u8>) {
    let text = varint_text(unscaled);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.as_str()),
    };
    let exponent = digits.len() as i64 - i64::from(scale);
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() {
        return (0, 0, Vec::new());
    }
    (sign, exponent, digits.bytes().map(|digit| digit - b'0').collect())
}

/// Numeric order of decimals.
#[must_use]
pub fn compare_decimal(a: (i32, &[u8]), b: (i32, &[u8])) -> Ordering {
    let (a, b) = (normalized(a.0, a.1), normalized(b.0, b.1));
    a.0.cmp(&b.0).then_with(|| {
        let order = a.1.cmp(&b.1).then_with(|| a.2.cmp(&b.2));
        if a.0 < 0 { order.reverse() } else { order }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_read_back_and_are_minimal() {
        for (text, bytes) in [
            ("0", &[0][..]),
            ("127", &[127]),
            ("128", &[0, 128]),
            ("-1", &[255]),
            ("-128", &[128]),
            ("-129", &[255, 127]),
            ("256", &[1, 0]),
            ("-256", &[255, 0]),
        ] {
            assert_eq!(parse_varint(text).unwrap(), bytes, "{text}");
            assert_eq!(varint_text(bytes), text);
            assert_eq!(varint_i128(bytes), text.parse().ok());
        }
        let long = "-123456789012345678901234567890123456789012345678901234567890";
        assert_eq!(varint_text(&parse_varint(long).unwrap()), long);
        assert!(parse_varint("").is_none() && parse_varint("1a").is_none());
    }

    #[test]
    fn decimals_compare_as_numbers() {
        let sorted = ["-12.5", "-12.05", "-1e-3", "0", "0.001", "0.0010001", "1", "1.5e2", "1e30"];
        let parsed: Vec<Vec<u8>> = sorted.iter().map(|t| parse_decimal(t).unwrap()).collect();
        for (i, a) in parsed.iter().enumerate() {
            for (j, b) in parsed.iter().enumerate() {
                let (a, b) = (decimal_parts(a).unwrap(), decimal_parts(b).unwrap());
                assert_eq!(compare_decimal(a, b), i.cmp(&j), "{} {}", sorted[i], sorted[j]);
            }
        }
        let parts = |text| parse_decimal(text).unwrap();
        let (a, b) = (parts("1.50"), parts("1.5"));
        let order = compare_decimal(decimal_parts(&a).unwrap(), decimal_parts(&b).unwrap());
        assert_eq!(order, Ordering::Equal);
        assert_eq!(decimal_text(decimal_parts(&a).unwrap().0, &a[4..]), "1.50");
        assert_eq!(decimal_text(3, &[255]), "-0.001");
    }
}

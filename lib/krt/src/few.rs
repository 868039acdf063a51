//! A list that is mostly of one: it takes no allocation then, and no spare room otherwise.

use std::ops::{Deref, DerefMut};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Few<T> {
    One(T),
    /// None, or several.
    Some(Box<[T]>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Some(Box::default())
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Some(some) => some,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Some(some) => some,
        }
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut list: Vec<T>) -> Self {
        match list.pop() {
            Some(one) if list.is_empty() => Self::One(one),
            last => {
                list.extend(last);
                Self::Some(list.into_boxed_slice())
            }
        }
    }
}

impl<T: Copy> From<&[T]> for Few<T> {
    fn from(list: &[T]) -> Self {
        match list {
            [one] => Self::One(*one),
            list => Self::Some(list.into()),
        }
    }
}

impl<T> From<Option<T>> for Few<T> {
    fn from(one: Option<T>) -> Self {
        one.map_or_else(Self::default, Self::One)
    }
}

//! Lists in order of creation, page by page: `?cursor=&limit=` and `Link`.

use accord_raft::Consistency;
use accord_raft::Page;
use axum::response::Response;

use super::json_of;
use super::link_next;
use super::query::Query;
use super::query::QueryError;

/// Most items on a page, and as many as there are without `limit`: the front end does not page.
pub const ITEMS_MAX: usize = 1_000;

/// Which page of a list is asked for, and how fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageQuery {
    pub after: Option<u64>,
    pub limit: usize,
    pub consistency: Consistency,
}

impl PageQuery {
    pub fn parse(raw: Option<&str>) -> Result<PageQuery, QueryError> {
        let query = Query::parse(raw)?;
        Ok(PageQuery {
            after: query.seq("cursor")?,
            limit: query.number("limit", 1..=ITEMS_MAX)?.unwrap_or(ITEMS_MAX),
            consistency: query.consistency()?,
        })
    }

    /// The array of items, with a link to the next page if there is one.
    pub fn answer<'a, T, V: serde::Serialize>(
        &self,
        path: &str,
        page: &'a Page<T>,
        view: impl Fn(&'a T) -> V,
    ) -> Response {
        self.answer_with(path, page, view, |next| next)
    }

    /// The same, for a list that is asked for with more than this: `with` adds it to the query of the
    /// next page.
    pub fn answer_with<'a, T, V: serde::Serialize>(
        &self,
        path: &str,
        page: &'a Page<T>,
        view: impl Fn(&'a T) -> V,
        with: impl FnOnce(String) -> String,
    ) -> Response {
        let views: Vec<V> = page.items.iter().map(view).collect();
        let mut response = json_of(&views);
        if let Some(next) = page.next {
            link_next(&mut response, path, &with(self.next(next)));
        }
        response
    }

    fn next(&self, cursor: u64) -> String {
        let consistency = match self.consistency {
            Consistency::Linearizable => "",
            Consistency::Stale => "&consistency=stale",
        };
        format!("cursor={cursor}&limit={}{consistency}", self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let all = PageQuery::parse(None).unwrap();
        assert_eq!((all.after, all.limit), (None, ITEMS_MAX));
        let some = PageQuery::parse(Some("cursor=9&limit=2&consistency=stale")).unwrap();
        assert_eq!((some.after, some.limit), (Some(9), 2));
        assert_eq!(some.next(11), "cursor=11&limit=2&consistency=stale");
        for bad in ["limit=0", "limit=1001", "cursor=x", "limit=1&limit=1"] {
            assert!(PageQuery::parse(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn links_lead_on() {
        let query = PageQuery::parse(Some("limit=2")).unwrap();
        let page = |next| Page {
            items: vec![1, 2],
            next,
        };
        let last = query.answer("/api/servers", &page(None), |item| *item);
        assert!(!last.headers().contains_key("link"));
        let first = query.answer("/api/servers", &page(Some(7)), |item| *item);
        assert_eq!(
            first.headers()["link"],
            "</api/servers?cursor=7&limit=2>; rel=\"next\""
        );
    }
}

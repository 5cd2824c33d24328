// The page's address: which view, what the filter lets through, which entry is open, and beside
// which other one. All of it is in the fragment, which no server sees, and can be sent to somebody.
export function read() {
  const [view, search] = location.hash.slice(1).split(/\?(.*)/s);
  const { entry, with: other, ...filter } = Object.fromEntries(new URLSearchParams(search));
  return { view, filter, entry, other };
}
export function write(view, filter = {}, entry = null, other = null) {
  const search = new URLSearchParams(filter);
  if (entry) search.set("entry", entry);
  if (other) search.set("with", other);
  return `#${view}${search.size ? `?${search}` : ""}`;
}

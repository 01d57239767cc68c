/** What a caller says of one media type in its header Accept. */
type Wish = Readonly<{ weight: number; isNamed: boolean }>;

/**
 * The media type that a caller prefers, by its header Accept (RFC 9110, 12.5.1). Of equal weights one that the caller
 * names comes before one that a wildcard covers, then the first that is offered. Undefined if it accepts none.
 */
export function preferredType(
  accept: string | undefined,
  offered: readonly string[],
): string | undefined {
  if (accept === undefined || accept.trim() === '') return offered[0];
  const weights = weightsOf(accept);
  let best: (Wish & Readonly<{ type: string }>) | undefined;
  for (const type of offered) {
    const wish = wishFor(type, weights);
    if (wish.weight > 0 && (best === undefined || isBetter(wish, best))) best = { ...wish, type };
  }
  return best?.type;
}

/** The weight of each media range. Other parameters than q choose between forms that nobody offers here. */
function weightsOf(accept: string): ReadonlyMap<string, number> {
  const weights = new Map<string, number>();
  for (const range of accept.toLowerCase().split(',')) {
    const [name = '', ...parameters] = range.split(';').map((part) => part.trim());
    const q = parameters.find((parameter) => parameter.startsWith('q='))?.slice('q='.length);
    const weight = Number(q ?? 1);
    weights.set(name, Number.isNaN(weight) ? 1 : weight);
  }
  return weights;
}

/** The most specific range decides, also if it excludes the type. */
function wishFor(type: string, weights: ReadonlyMap<string, number>): Wish {
  const named = weights.get(type);
  if (named !== undefined) return { weight: named, isNamed: true };
  const group = `${type.slice(0, type.indexOf('/'))}/*`;
  return { weight: weights.get(group) ?? weights.get('*/*') ?? 0, isNamed: false };
}

function isBetter(wish: Wish, than: Wish): boolean {
  if (wish.weight !== than.weight) return wish.weight > than.weight;
  return wish.isNamed && !than.isNamed;
}

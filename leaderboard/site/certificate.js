// Counts become radii here as in bench/rules/bounds.py; tests/test_site.py compares both. No page, no globals but these functions.

// Coefficients of Wichura, "Algorithm AS241: The Percentage Points of the Normal Distribution", Applied Statistics 37 (1988); highest power first.
const AS241 = [
  [[2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4, 1.3731693765509461125e4,
    1.9715909503065514427e3, 1.3314166789178437745e2, 3.387132872796366608],
  [5.226495278852854561e3, 2.8729085735721942674e4, 3.930789580009271061e4, 2.1213794301586595867e4, 5.3941960214247511077e3,
    6.8718700749205790830e2, 4.2313330701600911252e1, 1]],
  [[7.7454501427834140764e-4, 2.27238449892691845833e-2, 2.4178072517745061177e-1, 1.27045825245236838258, 3.64784832476320460504,
    5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734],
  [1.05075007164441684324e-9, 5.475938084995344946e-4, 1.51986665636164571966e-2, 1.4810397642748007459e-1, 6.8976733498510000455e-1,
    1.6763848301838038494, 2.05319162663775882187, 1]],
  [[2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.2426609473880784386e-3, 2.65321895265761230930e-2, 2.9656057182850489123e-1,
    1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772],
  [2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4, 1.4875361290850615025e-2,
    1.3692988092273580531e-1, 5.9983220655588793769e-1, 1]],
];

/** The standard normal quantile of p in [1/2, 1); its complement q = 1 - p may be given with more digits. */
function normalQuantile(p, q = 1 - p) {
  const value = ([num, den], r) => num.reduce((sum, c) => sum * r + c) / den.reduce((sum, c) => sum * r + c);
  const middle = p - 0.5;
  if (middle <= 0.425) return middle * value(AS241[0], 0.180625 - middle * middle);
  const r = Math.sqrt(-Math.log(q));
  return r <= 5 ? value(AS241[1], r - 1.6) : value(AS241[2], r - 5);
}

/** log of the gamma function at z >= 1: Stirling's series, from 10 up; below by recurrence. */
function logGamma(z) {
  let below = 0;
  for (; z < 10; z++) below += Math.log(z);
  const square = 1 / (z * z);
  const series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square * (1 / 1188 - square * 691 / 360360))))) / z;
  return (z - 0.5) * Math.log(z) - z + 0.5 * Math.log(2 * Math.PI) + series - below;
}

/** The regularized incomplete beta function at x, below its mean: a continued fraction (DLMF 8.17.22, modified Lentz). */
function incompleteBeta(x, a, b, logBeta) {
  let c = 1, d = 1 / (1 - (a + b) * x / (a + 1)), h = d;
  for (let m = 1; m < 100000; m++) {
    let term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / (1 + term * d); c = 1 + term / c; h *= d * c;
    term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / (1 + term * d); c = 1 + term / c; h *= d * c;
    if (Math.abs(d * c - 1) < 1e-15) break;
  }
  return Math.exp(a * Math.log(x) + b * Math.log1p(-x) - logBeta) * h / a;
}

/** The one-sided Clopper-Pearson lower bound: the alpha quantile of Beta(count, n - count + 1), and 1 minus it. */
function lowerBound(count, n, alpha) {
  if (count === 0) return [0, 1];
  if (count === n) return [Math.exp(Math.log(alpha) / n), -Math.expm1(Math.log(alpha) / n)];
  const a = count, b = n - count + 1, logBeta = logGamma(a) + logGamma(b) - logGamma(a + b);
  const mean = a / (a + b);
  let low = 0, high = 1, x = Math.max(mean / 2, mean - 2 * Math.sqrt(mean * (1 - mean) / n));
  for (let step = 0; step < 200; step++) {
    if (!(x > low && x < high)) x = (low + high) / 2;
    const value = incompleteBeta(x, a, b, logBeta);
    if (value > alpha) high = x; else low = x;
    // Newton's step for log I(x) = log alpha, which is nearly straight in log x.
    const slope = Math.exp((a - 1) * Math.log(x) + (b - 1) * Math.log1p(-x) - logBeta);
    const next = x - value * Math.log(value / alpha) / slope;
    if (Math.abs(next - x) <= 1e-16 + 4e-16 * x || high - low <= 1e-16) return [x, 1 - x];
    x = next;
  }
  return [x, 1 - x];
}

const BOUNDS = new Map();
/** lowerBound, remembered; counts that cannot certify are not worked out. */
function bound(count, n, alpha) {
  if (2 * count <= n) return [0, 1];
  const key = `${count}/${n}/${alpha}`;
  if (!BOUNDS.has(key)) BOUNDS.set(key, lowerBound(count, n, alpha));
  return BOUNDS.get(key);
}

/** The ways to read counts that this page has: rule -> [radius, pA], the radius null where the image abstains. */
const RULES = {
  "clopper-pearson": (count, n, runnerUp, alpha, sigma) => {
    const [p, q] = bound(count, n, alpha);
    return [p >= 0.5 ? sigma * normalQuantile(p, q) : null, p];
  },
  "two-sided": (count, n, runnerUp, alpha, sigma) => {
    const lower = lowerBound(count, n, 0.9 * alpha)[0];
    const upper = Math.min(1 - lower, 1 - lowerBound(n - runnerUp, n, 0.1 * alpha)[0]);
    const quantile = (p) => p >= 0.5 ? normalQuantile(p) : -normalQuantile(1 - p);
    return [lower > upper ? sigma / 2 * (quantile(lower) - quantile(upper)) : null, lower];
  },
};

/** Numbers from deflated, base64-coded bytes: little-endian, byte planes one after the other. Type: Int32Array or Float64Array. */
async function unpack(text, Type) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const bytes = new Uint8Array(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  const size = Type.BYTES_PER_ELEMENT, count = bytes.length / size, woven = new Uint8Array(bytes.length);
  for (let plane = 0; plane < size; plane++) for (let k = 0; k < count; k++) woven[k * size + plane] = bytes[plane * count + k];
  return new Type(woven.buffer);
}

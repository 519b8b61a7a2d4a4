/* See graph.h. Functions follow microgpt/reference.py line by line; a node is an index, children come before parents.
 */
#include "tests/graph.h"

#include <stdlib.h>
#include <string.h>

#include "base/libm.h"

typedef struct {
    double data, grad, local_grad[2];
    int child[2], children, visited;
} node;

static node *nodes;
static int count, capacity;

static int make(double data, int children, int a, double da, int b, double db)
{
    if (count == capacity) {
        capacity = 2 * capacity + 1024;
        nodes = realloc(nodes, (size_t)capacity * sizeof *nodes);
        if (!nodes) abort();
    }
    nodes[count] = (node){data, 0.0, {da, db}, {a, b}, children, 0};
    return count++;
}

static double data(int a) { return nodes[a].data; }
static int constant(double x) { return make(x, 0, 0, 0, 0, 0); }
static int add(int a, int b) { return make(data(a) + data(b), 2, a, 1.0, b, 1.0); }
static int mul(int a, int b) { return make(data(a) * data(b), 2, a, data(b), b, data(a)); }
static int power(int a, double y) { return make(mg_pow(data(a), y), 1, a, y * mg_pow(data(a), y - 1.0), 0, 0); }
static int exponential(int a) { return make(mg_exp(data(a)), 1, a, mg_exp(data(a)), 0, 0); }
static int logarithm(int a) { return make(mg_log(data(a)), 1, a, 1.0 / data(a), 0, 0); }
static int relu(int a) { return make(data(a) > 0.0 ? data(a) : 0.0, 1, a, data(a) > 0.0 ? 1.0 : 0.0, 0, 0); }
/* sum() begins with 0 + a[0], which is a[0] + Value(0). */
static int sum_step(int sum, int a) { return sum < 0 ? add(a, constant(0.0)) : add(sum, a); }

static void linear(int nout, int nin, const int *x, int w, int *out)
{
    for (int o = 0; o < nout; o++) {
        int sum = -1;
        for (int i = 0; i < nin; i++) sum = sum_step(sum, mul(w + o * nin + i, x[i]));
        out[o] = sum;
    }
}

static void softmax(int n, const int *logits, int *probs)
{
    double largest = data(logits[0]);
    for (int i = 1; i < n; i++)
        if (data(logits[i]) > largest) largest = data(logits[i]);
    int total = -1;
    for (int i = 0; i < n; i++) probs[i] = exponential(add(logits[i], constant(-largest)));
    for (int i = 0; i < n; i++) total = sum_step(total, probs[i]);
    for (int i = 0; i < n; i++) probs[i] = mul(probs[i], power(total, -1.0));
}

static void rmsnorm(int n, int *x)
{
    int sum = -1;
    for (int i = 0; i < n; i++) sum = sum_step(sum, mul(x[i], x[i]));
    const int mean_square = mul(sum, constant(mg_pow((double)n, -1.0)));
    const int scale = power(add(mean_square, constant(1e-5)), -0.5);
    for (int i = 0; i < n; i++) x[i] = mul(x[i], scale);
}

enum { MOST = 512 }; /* n_embd * 4, vocab_size and block_size may be this much */

static void gpt(const mg_config *c, int token, int pos, int *keys, int *values, int *logits)
{
    const int n_embd = (int)c->n_embd, n_head = (int)c->n_head, head_dim = n_embd / n_head;
    const int vocab_size = (int)c->vocab_size, block_size = (int)c->block_size, square = n_embd * n_embd;
    int x[MOST], residual[MOST], q[MOST], attn[MOST], hidden[MOST];
    const int wpe = vocab_size * n_embd, lm_head = wpe + block_size * n_embd;
    int w = lm_head + vocab_size * n_embd;
    for (int i = 0; i < n_embd; i++) x[i] = add(token * n_embd + i, wpe + pos * n_embd + i);
    rmsnorm(n_embd, x);
    for (int l = 0; l < c->n_layer; l++, w += 12 * square) {
        int *k = keys + l * block_size * n_embd, *v = values + l * block_size * n_embd;
        memcpy(residual, x, sizeof x);
        rmsnorm(n_embd, x);
        linear(n_embd, n_embd, x, w, q);
        linear(n_embd, n_embd, x, w + square, k + pos * n_embd);
        linear(n_embd, n_embd, x, w + 2 * square, v + pos * n_embd);
        for (int start = 0; start < n_embd; start += head_dim) {
            int weights[MOST];
            for (int t = 0; t <= pos; t++) {
                int sum = -1;
                for (int j = start; j < start + head_dim; j++) sum = sum_step(sum, mul(q[j], k[t * n_embd + j]));
                weights[t] = mul(sum, constant(mg_pow(mg_pow((double)head_dim, 0.5), -1.0)));
            }
            softmax(pos + 1, weights, weights);
            for (int j = start; j < start + head_dim; j++) {
                attn[j] = -1;
                for (int t = 0; t <= pos; t++) attn[j] = sum_step(attn[j], mul(weights[t], v[t * n_embd + j]));
            }
        }
        linear(n_embd, n_embd, attn, w + 3 * square, x);
        for (int i = 0; i < n_embd; i++) x[i] = add(x[i], residual[i]);
        memcpy(residual, x, sizeof x);
        rmsnorm(n_embd, x);
        linear(4 * n_embd, n_embd, x, w + 4 * square, hidden);
        for (int i = 0; i < 4 * n_embd; i++) hidden[i] = relu(hidden[i]);
        linear(n_embd, 4 * n_embd, hidden, w + 8 * square, x);
        for (int i = 0; i < n_embd; i++) x[i] = add(x[i], residual[i]);
    }
    linear(vocab_size, n_embd, x, lm_head, logits);
}

static void backward(int root)
{
    int *order = malloc((size_t)count * sizeof *order), ordered = 0, top = 0;
    int *stack = malloc((4 * (size_t)count + 4) * sizeof *stack);
    if (!order || !stack) abort();
    stack[top++] = root;
    while (top) {
        const int a = stack[--top];
        if (a < 0) { /* all below it has been visited */
            order[ordered++] = ~a;
        } else if (!nodes[a].visited) {
            nodes[a].visited = 1;
            stack[top++] = ~a;
            for (int i = nodes[a].children - 1; i >= 0; i--) stack[top++] = nodes[a].child[i];
        }
    }
    nodes[root].grad = 1.0;
    while (ordered--) {
        const node *parent = nodes + order[ordered];
        for (int i = 0; i < parent->children; i++) nodes[parent->child[i]].grad += parent->local_grad[i] * parent->grad;
    }
    free(order);
    free(stack);
}

double graph_document_gradient(const mg_config *c, const double *params, double *grad, const int32_t *tokens, int64_t n)
{
    const int num_params = (int)mg_count_params(c), cached = (int)(c->n_layer * c->block_size * c->n_embd);
    int *keys = malloc(2 * (size_t)(cached + 1) * sizeof *keys), logits[MOST], sum = -1;
    if (!keys) abort();
    count = 0;
    for (int i = 0; i < num_params; i++) {
        constant(params[i]);
        nodes[i].grad = grad[i];
    }
    int losses[MOST];
    for (int pos = 0; pos < n; pos++) {
        gpt(c, tokens[pos], pos, keys, keys + cached, logits);
        softmax((int)c->vocab_size, logits, logits);
        losses[pos] = mul(logarithm(logits[tokens[pos + 1]]), constant(-1.0));
    }
    for (int pos = 0; pos < n; pos++) sum = sum_step(sum, losses[pos]);
    const int loss = mul(sum, constant(1.0 / (double)n));
    backward(loss);
    for (int i = 0; i < num_params; i++) grad[i] = nodes[i].grad;
    free(keys);
    return data(loss);
}

void graph_clip(const mg_config *c, double clip, double *grad)
{
    const mg_layout at = mg_layout_of(c);
    double total = 0.0;
    for (int64_t i = 0; i < at.num_params;) {
        const int64_t end = i + (i >= at.layers && (i - at.layers) % at.layer_size >= at.mlp_fc2 ? 4 : 1) * c->n_embd;
        double row = 0.0;
        for (; i < end; i++) row += grad[i] * grad[i];
        total += row;
    }
    if (sqrt(total) > clip)
        for (int64_t i = 0; i < at.num_params; i++) grad[i] *= clip / sqrt(total);
}

void graph_adam_step(const mg_adam_config *c, int64_t step, int64_t num_params, double *params, double *grad, double *m,
                     double *v)
{
    const double linear = c->learning_rate * (1.0 - (double)step / (double)c->num_steps);
    const double lr_t = c->rates ? c->rates[step - c->first_rate] : linear;
    const double m_scale = 1.0 - mg_pow(c->beta1, (double)(step + 1));
    const double v_scale = 1.0 - mg_pow(c->beta2, (double)(step + 1));
    for (int64_t i = 0; i < num_params; i++) {
        if (c->weight_decay != 0.0) params[i] -= lr_t * c->weight_decay * params[i];
        m[i] = c->beta1 * m[i] + (1.0 - c->beta1) * grad[i];
        v[i] = c->beta2 * v[i] + (1.0 - c->beta2) * mg_pow(grad[i], 2.0);
        params[i] -= lr_t * (m[i] / m_scale) / (mg_pow(v[i] / v_scale, 0.5) + c->eps);
        grad[i] = 0.0;
    }
}

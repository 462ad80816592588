// Package plot computes where the pieces of the console's pictures are. The pages' templates
// draw them as SVG.
//
// It promises that every number that it returns is finite and lies within the picture,
// whatever the data are.
//
// It must never make markup: texts stay texts, and templates escape them.
package plot

// Writes dist/package.json, the manifest of the published package: the root manifest without the parts for development.

import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'

const {
  private: _,
  scripts: __,
  devDependencies: ___,
  optionalDependencies: ____,
  exports: entries,
  ...manifest
} = JSON.parse(readFileSync('package.json', 'utf8'))

const builtPath = (source: string): string => source.replace(/^\.\/src\//, './').replace(/\.ts$/, '.js')

writeFileSync(
  'dist/package.json',
  `${JSON.stringify(
    {
      ...manifest,
      exports: Object.fromEntries(Object.entries<string>(entries).map(([path, file]) => [path, builtPath(file)])),
    },
    undefined,
    2,
  )}\n`,
)
for (const file of ['README.md', 'CHANGELOG.md', 'LICENSE']) copyFileSync(file, `dist/${file}`)

import { MergeView } from '@codemirror/merge';
import { EditorState, type Extension } from '@codemirror/state';
import { EditorView, lineNumbers } from '@codemirror/view';
import { type IEditorLanguageRegistry, jupyterTheme } from '@jupyterlab/codemirror';
import type { TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';
import { bytes } from '../model/figures';
import type { Comparison, Side } from '../model/types';

/** The two sides of one change: text side by side, else sizes and digests. */
export class CompareView extends Widget {
  constructor(
    private readonly _languages: IEditorLanguageRegistry | null,
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.addClass('hyper-Compare');
    this.say(_trans.__('Choose a file to see what was changed in it.'));
  }

  override dispose(): void {
    this._view?.destroy();
    super.dispose();
  }

  /** Show a sentence instead of a comparison. */
  say(text: string): void {
    this._clear(text);
  }

  /** @param isCurrent - whether it shall still be shown when all for it has come. */
  async compare(comparison: Comparison, isCurrent: () => boolean): Promise<void> {
    const { before, after } = comparison;
    if (before?.text === null || after?.text === null) {
      this._clear('');
      this.node.append(this._facts(before, after));
      return;
    }
    const language = await this._language(comparison.path);
    if (isCurrent() && !this.isDisposed) {
      this._clear('');
      this._merge(before?.text ?? '', after?.text ?? '', language);
    }
  }

  private _clear(text: string): void {
    this._view?.destroy();
    this._view = null;
    const paragraph = document.createElement('p');
    paragraph.textContent = text;
    this.node.replaceChildren(...(text ? [paragraph] : []));
  }

  private async _language(path: string): Promise<Extension> {
    const known = this._languages?.findByFileName(path);
    return (known && (await this._languages?.getLanguage(known))?.support) ?? [];
  }

  private _merge(before: string, after: string, language: Extension): void {
    const trans = this._trans;
    const side = (doc: string, label: string) => ({
      doc,
      extensions: [
        language,
        jupyterTheme,
        lineNumbers(),
        EditorState.readOnly.of(true),
        EditorView.editable.of(false),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ tabindex: '0', 'aria-label': label })
      ]
    });
    const heads = document.createElement('div');
    heads.className = 'hyper-Compare-heads';
    for (const text of [trans.__('On the host'), trans.__('In the sandbox')]) {
      const head = document.createElement('span');
      head.textContent = text;
      heads.append(head);
    }
    this.node.append(heads);
    this._view = new MergeView({
      a: side(before, trans.__('On the host')),
      b: side(after, trans.__('In the sandbox')),
      parent: this.node,
      gutter: true,
      collapseUnchanged: { margin: 3, minSize: 8 },
      diffConfig: { timeout: 1000 }
    });
  }

  private _facts(before: Side | null, after: Side | null): HTMLElement {
    const trans = this._trans;
    const table = document.createElement('table');
    const rows: [string, string, string][] = [
      ['', trans.__('On the host'), trans.__('In the sandbox')],
      [trans.__('Size'), this._size(before), this._size(after)],
      [trans.__('SHA-256'), before?.digest ?? '', after?.digest ?? '']
    ];
    rows.forEach((cells, number) => {
      const row = table.insertRow();
      cells.forEach((text, column) => {
        const cell = document.createElement(number && column ? 'td' : 'th');
        cell.textContent = text;
        row.append(cell);
      });
    });
    return table;
  }

  private _size(side: Side | null): string {
    return side ? bytes(side.size) : this._trans.__('no such file');
  }

  private _view: MergeView | null = null;
}
